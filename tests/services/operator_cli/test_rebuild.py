"""Read models made anew: what the log makes of them is found equal, and every way they can differ is told."""

from __future__ import annotations

import json

import msgspec
import pytest

from schemas.access import AccessChanged, AccessRecord
from schemas.base import Message, SessionId, UserName
from schemas.lifecycle import SessionState
from schemas.quota import QuotaUpdated, Released, Reserved
from schemas.subjects import Subjects
from services._runtime.log import Recorded
from services._runtime.settings import Configuration
from services.operator_cli import replay
from services.operator_cli.story.history import state_of
from services.operator_cli.story.rebuild import access_deviations, access_records, quota_deviations
from tests.services.operator_cli.conftest import signed_in
from tests.services.operator_cli.histories import recorded
from tests.support.samples import SYSTEM, Story, stamp

SUBJECTS = Subjects()
ADA = UserName("ada")
RECORD = AccessRecord(user=ADA)
NEWER = AccessRecord(user=ADA, vos=["default", "ai"])


def log_of(*messages: Message) -> list[Recorded]:
    return [Recorded(number, stamp()(each, after=number, cause=None)) for number, each in enumerate(messages, 1)]


CHANGES = log_of(AccessChanged(user=ADA, record=RECORD), AccessChanged(user=ADA, record=NEWER))


@pytest.mark.parametrize(
    ("live", "what"),
    [
        ({"ada": msgspec.json.encode(NEWER), "claims.ada": b"{}"}, []),
        ({}, [("ada", "missing")]),
        ({"ada": msgspec.json.encode(RECORD)}, [("ada", "another record")]),
        ({"ada": b"damaged"}, [("ada", "another record")]),
        ({"ada": msgspec.json.encode(NEWER), "eve": msgspec.json.encode(RECORD)}, [("eve", "a record")]),
    ],
)
def test_the_access_bucket_is_the_newest_record_of_everybody(
    live: dict[str, bytes], what: list[tuple[str, str]]
) -> None:
    found = access_deviations(access_records(CHANGES), live)
    assert [(each.what, each.live) for each in found] == what


def quota(story: Story, change: type[Reserved] | type[Released], used: int) -> QuotaUpdated:
    made = change(session=story.session, user=ADA, amount=1)
    return QuotaUpdated(vo="default", system=SYSTEM, resource="sessions", limit=5, used=used, change=made)


def test_quotas_hold_what_live_sessions_hold_and_say_so() -> None:
    lives, over = Story(), Story()
    states: dict[SessionId, SessionState] = {
        lives.session: state_of(recorded(lives.requested(), lives.admitted())),
        over.session: state_of(recorded(over.requested(), over.ended())),
    }
    sound = log_of(quota(lives, Reserved, 1), quota(over, Reserved, 2), quota(over, Released, 1))
    assert quota_deviations(sound, states) == []
    [wrong] = quota_deviations(log_of(quota(lives, Reserved, 7)), states)
    assert (wrong.live, wrong.rebuilt) == ("used 7", "used 1")
    [leaked] = quota_deviations(log_of(quota(over, Reserved, 1)), states)
    assert "which has ended" in leaked.live
    [stray] = quota_deviations(log_of(quota(Story(), Reserved, 1)), states)
    assert "is not in the log" in stray.live


async def test_a_whole_log_is_read_again(guarded: Configuration, capsys: pytest.CaptureFixture[str]) -> None:
    subject = SUBJECTS.access_changed(ADA)
    async with signed_in(guarded, "accounts") as accounts, signed_in(guarded, "operator-cli") as operator:
        change = stamp("accounts")(AccessChanged(user=ADA, record=RECORD), after=0, cause=None)
        await accounts.log.append("ACCESS", subject, change, scope=subject, after=0)
        assert await replay.rebuild(operator, guarded, None, as_json=True) == 1
        [deviation] = json.loads(capsys.readouterr().out)["deviations"]
        assert (deviation["model"], deviation["what"], deviation["live"]) == ("access", "ada", "missing")
        await accounts.access.put("ada", msgspec.json.encode(RECORD))
        assert await replay.rebuild(operator, guarded, None, as_json=False) == 0
        assert "the live read models are what the log makes of them" in capsys.readouterr().out
