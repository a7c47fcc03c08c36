"""What a recorded event becomes in a sandbox: other ids, hub and times, and nothing secret. Pure; appends nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec

from schemas.base import UNSTAMPED, HubName, SessionId, SystemName, UserName
from schemas.privacy import personal_values, redacted
from schemas.session import HpcPlace, JobStatusChanged, Queued, SessionEvent, StartRequested
from services.operator_cli.story.history import Moment

REPLAY_HUB = HubName("replay")
"""The hub that replayed sessions belong to: no JupyterHub has it, so none is surprised by them."""
DECIDING = ("accounts", "hpc-launcher", "cloud-launcher", "tunneler")
"""The services whose words a sandbox finds for itself, as events name them in their source."""


class Mapping(msgspec.Struct, frozen=True, kw_only=True):
    """What takes the place of what was recorded; None leaves it."""

    system: SystemName | None = None
    user: UserName | None = None
    place: HpcPlace | None = None


def mapped(event: SessionEvent, mapping: Mapping, session: SessionId, shift: timedelta) -> SessionEvent:
    """The event of another session, not stamped. Fields that no export takes along are empty."""
    bare = redacted(event, {value: value for value in personal_values(event)})
    changed = msgspec.structs.replace(
        bare, id=UNSTAMPED, cause=None, hub=REPLAY_HUB, system=mapping.system or event.system, session=session
    )
    match changed:
        case StartRequested():
            return msgspec.structs.replace(
                changed,
                user=mapping.user or changed.user,
                place=mapping.place or changed.place,
                deadline=changed.deadline + shift,
                sign_in=None,
            )
        case JobStatusChanged(job_status=Queued(estimated_start=begin) as queued) if begin is not None:
            return msgspec.structs.replace(
                changed, job_status=msgspec.structs.replace(queued, estimated_start=begin + shift)
            )
        case _:
            return changed


def from_outside(moment: Moment) -> bool:
    """Whether an event came from a hub or an operator, and not from a service that a sandbox has of its own."""
    return moment.legal and moment.event.source.rpartition("/")[2] not in DECIDING


def first_parting(recorded: Sequence[str], here: Sequence[str]) -> str:
    """The first step at which two ways through the states part, in words; empty where they are one."""
    for step, (was, now) in enumerate(zip([*recorded, "nothing"], [*here, "nothing"], strict=False)):
        if was != now:
            return f"after {recorded[step - 1] if step else 'nothing'}: recorded {was}, here {now}"
    return ""
