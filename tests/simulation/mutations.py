"""Defects planted on purpose, one at a time: the simulation must catch each, or it proves nothing.

Each is what a hurried change could do to a decider, a reconciler, the ledger or the consumer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec

from schemas import lifecycle
from schemas.lifecycle import Created, Ended, Interrupted, Listening, Rejected, Stopping, Withdrawn
from schemas.quota import QuotaUpdated
from schemas.session import SessionEnded, Use
from services._launching import ends, reconciliation
from services._runtime import consumer, vault, view
from services._runtime.decider import Emit, Perform
from services._runtime.delivery import SessionDeliveries
from services.accounts import admit, ledger
from services.accounts import app as accounts_app
from services.cloud_launcher import app as cloud_app
from services.hpc_launcher import act, observe, reconciler
from services.hpc_launcher import app as launcher_app
from services.hpc_launcher import decide as launcher_decide
from services.hub_bridge import arrival, bridge
from services.tunneler import app as tunneler_app
from services.tunneler import upkeep
from tests.simulation import hub

Plant = Callable[[ExitStack], None]


def _put(stack: ExitStack, owner: Any, name: str, value: Any) -> Any:
    """Puts a value in place of an attribute until the stack unwinds; the value that was there."""
    before = owner.__dict__[name] if isinstance(owner, type) else getattr(owner, name)
    setattr(owner, name, value)
    stack.callback(setattr, owner, name, before)
    return before


def _without(stack: ExitStack, module: Any, states: Any, wanted: Callable[[Any], bool] = lambda step: True) -> None:
    """A decider that forgets some of its steps in some states."""
    decide = module.decide

    def forgetful(state: Any, event: Any) -> list[Any]:
        steps = decide(state, event)
        return [step for step in steps if not wanted(step)] if isinstance(state, states) else list(steps)

    _put(stack, module, "decide", forgetful)


def _performs(command: type) -> Callable[[Any], bool]:
    return lambda step: isinstance(step, Perform) and isinstance(step.command, command)


def accounts_never_release(stack: ExitStack) -> None:
    _without(stack, accounts_app, Ended)


def accounts_leave_withdrawn_starts(stack: ExitStack) -> None:
    _without(stack, accounts_app, Withdrawn)


def accounts_leave_rejected_starts(stack: ExitStack) -> None:
    _without(stack, accounts_app, Rejected)


def accounts_admit_without_reserving(stack: ExitStack) -> None:
    async def nothing(self: Any, request: Any) -> None:
        return None

    _put(stack, ledger.Ledger, "reserve", nothing)


def quotas_are_one_too_generous(stack: ExitStack) -> None:
    reserve = ledger.reserve

    def generous(state: Any, quota: Any, session: Any, user: Any, amount: int, now: Any) -> Any:
        wider = msgspec.structs.replace(quota, limit=None if quota.limit is None else quota.limit + 1, per_user=None)
        answer = reserve(state, wider, session, user, amount, now)
        return msgspec.structs.replace(answer, limit=quota.limit) if isinstance(answer, QuotaUpdated) else answer

    _put(stack, ledger, "reserve", generous)
    _put(stack, ledger, "full", lambda *_: None)


def a_share_is_reserved_again_at_every_try(stack: ExitStack) -> None:
    reserve = ledger.reserve

    def again(state: Any, quota: Any, session: Any, user: Any, amount: int, now: Any) -> Any:
        others = {each: share for each, share in state.shares.items() if each != session}
        return reserve(type(state)(others), quota, session, user, amount, now)

    _put(stack, ledger, "reserve", again)


def jobs_start_before_their_creation_is_durable(stack: ExitStack) -> None:
    create = act.Actor.__dict__["_create"]

    async def eager(self: Any, request: Any, system: Any, site: Any, owner: Any) -> Any:
        created = await create(self, request, system, site, owner)
        await site.start(created.job, owner)
        return created

    _put(stack, act.Actor, "_create", eager)


def created_jobs_are_not_submitted(stack: ExitStack) -> None:
    _without(stack, launcher_app, Created)


def stops_are_believed_without_proof(stack: ExitStack) -> None:
    async def hasty(self: Any, request: Any, system: Any, site: Any, owner: Any, job: str, stop: Any) -> Any:
        await site.abort(job, owner)
        return ends.ended(request, "stopped", "believed")

    _put(stack, act.Actor, "_end_job", hasty)


def stops_are_not_carried_out(stack: ExitStack) -> None:
    _without(stack, launcher_app, Stopping)


def a_passed_deadline_ends_a_job_that_may_run(stack: ExitStack) -> None:
    give_up = launcher_app.give_up

    def careless(state: Any, error: Any) -> Any:
        if isinstance(state, Created):
            return [Emit(ends.ended(state.request, "expired", error.reason))]
        return give_up(state, error)

    _put(stack, launcher_app, "give_up", careless)


def nothing_is_cleared_away(stack: ExitStack) -> None:
    _without(stack, launcher_app, Ended, _performs(launcher_decide.ClearAway))
    _put(stack, reconciliation, "compare", lambda wanted, found: [])


def orphans_are_left_alone(stack: ExitStack) -> None:
    _without(stack, launcher_app, lifecycle.SessionState, _performs(launcher_decide.RemoveStray))
    _put(stack, reconciliation, "compare", lambda wanted, found: [])


def every_tagged_job_is_an_orphan(stack: ExitStack) -> None:
    async def everything(self: Any, owner: Any) -> None:
        for job in await self._site.tagged_jobs(self._installation, owner, ()):
            await self._site.delete(job.job, owner)

    _put(stack, reconciler.Reconciler, "_compare", everything)


def silence_is_taken_for_the_end(stack: ExitStack) -> None:
    look = observe.Observer.__dict__["_silent"]

    async def deaf(self: Any, state: Any, watched: Any, evidence: str) -> None:
        if watched.errors >= 1:
            await self._record(ends.ended(state.request, "failed", evidence))
        else:
            await look(self, state, watched, evidence)

    _put(stack, observe.Observer, "_silent", deaf)


def one_denial_is_believed(stack: ExitStack) -> None:
    async def gullible(self: Any, state: Any, watched: Any) -> None:
        await self._record(ends.ended(state.request, "finished", "the site knows it no more"))

    _put(stack, observe.Observer, "_missing", gullible)


def secrets_outlive_their_session(stack: ExitStack) -> None:
    async def keeps(self: Any, session: Any) -> None:
        return None

    _put(stack, vault.Vault, "forget", keeps)


def secrets_are_forgotten_from_the_wrong_end(stack: ExitStack) -> None:
    async def forwards(self: Any, session: Any) -> None:
        for recipient in vault.RECIPIENTS:
            key = f"{session}.{recipient}"
            if await self._bucket.get(key) is not None:
                await self._bucket.delete(key)

    _put(stack, vault.Vault, "forget", forwards)


def a_hub_sweeps_once_or_never(stack: ExitStack) -> None:
    async def never(self: Any) -> None:
        return None

    _put(stack, bridge.Bridge, "sweep", never)


def lost_tunnels_are_not_rebuilt(stack: ExitStack) -> None:
    _without(stack, tunneler_app, Interrupted | Listening)


def tunnels_are_not_proved(stack: ExitStack) -> None:
    async def trusting(self: Any, way: Any, request: Any, proof: Any) -> None:
        return None

    async def unchecked(self: Any, session: Any, state: Any) -> None:
        return None

    _put(stack, tunneler_app.TunnelerApp, "_prove_soon", trusting)
    _put(stack, tunneler_app.TunnelerApp, "check", unchecked)


def tunnels_outlive_their_session(stack: ExitStack) -> None:
    _put(stack, tunneler_app.TunnelerApp, "_on_event", lambda self, recorded, before, after: None)


def dead_tunnelers_are_thought_alive(stack: ExitStack) -> None:
    async def everybody(bucket: Any, prefix: str) -> dict[str, str]:
        await bucket.keys()
        return {f"tunneler-{n}": f"tunneler-{n}" for n in range(10)}

    async def never(self: Any, session: Any, state: Any) -> None:
        return None

    _put(stack, upkeep, "holders", everybody)
    _put(stack, tunneler_app.TunnelerApp, "check", never)
    _put(stack, tunneler_app.TunnelerApp, "_restore", _nothing_restored)


async def _nothing_restored(self: Any, session: Any, request: Any, state: Any) -> None:
    return None


def appends_are_not_compared(stack: ExitStack) -> None:
    """Whatever the log says meanwhile, the event goes in."""
    from tests.simulation.broker import Broker

    append = Broker.__dict__["append"]

    def blind(self: Any, stream: Any, subject: str, body: bytes, scope: str, after: int) -> Any:
        within = self.within(stream, scope)
        return append(self, stream, subject, body, scope, within[-1].recorded.sequence if within else 0)

    _put(stack, Broker, "append", blind)


def messages_are_acknowledged_before_they_are_handled(stack: ExitStack) -> None:
    deliver = SessionDeliveries.__dict__["deliver"]

    async def early(self: Any, delivery: Any) -> None:
        await delivery.acknowledge()
        await deliver(self, delivery)

    async def no_nudge(self: Any, session: Any) -> None:
        return None

    _put(stack, SessionDeliveries, "deliver", early)
    _put(stack, consumer.SessionConsumer, "nudge", no_nudge)


def a_session_may_end_twice(stack: ExitStack) -> None:
    following = lifecycle._following

    def lenient(state: Any, event: Any) -> Any:
        if isinstance(state, Ended) and isinstance(event, SessionEnded):
            return Ended(state.request, event, state.admission, state.job)
        return following(state, event)

    def evolve(state: Any, event: Any) -> Any:
        after = lenient(state, event)
        if after is None:
            raise lifecycle.IllegalEventError(state, event)
        return after

    for module in (consumer, view):
        _put(stack, module, "evolve", evolve)


def a_hub_starts_again_before_the_old_session_is_over(stack: ExitStack) -> None:
    async def impatient(self: Any) -> None:
        return None

    _put(stack, hub.Spawner, "_live_session", impatient)


def a_moved_tunnel_moves_no_route(stack: ExitStack) -> None:
    async def unmoved(self: Any, tunnel: Any) -> None:
        return None

    _put(stack, hub.Spawner, "moved", unmoved)


def servers_are_ready_before_they_answer(stack: ExitStack) -> None:
    """Nobody looks whether the server answers through the tunnel, and nobody says that it is ready."""

    async def arrive(sessions: Any, session: Any, answering: Any) -> Any:
        state = await sessions.wait_for(
            session, lambda at: isinstance(at, lifecycle.Reachable | lifecycle.Ready | lifecycle.Ended)
        )
        if isinstance(state, lifecycle.Ended):
            raise arrival.SessionEndedError(state.end)
        return state.tunnel

    _put(stack, hub, "arrive", arrive)


PLANTED: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        accounts_never_release,
        accounts_leave_withdrawn_starts,
        accounts_leave_rejected_starts,
        accounts_admit_without_reserving,
        quotas_are_one_too_generous,
        a_share_is_reserved_again_at_every_try,
        jobs_start_before_their_creation_is_durable,
        created_jobs_are_not_submitted,
        stops_are_believed_without_proof,
        stops_are_not_carried_out,
        a_passed_deadline_ends_a_job_that_may_run,
        nothing_is_cleared_away,
        orphans_are_left_alone,
        every_tagged_job_is_an_orphan,
        silence_is_taken_for_the_end,
        one_denial_is_believed,
        secrets_outlive_their_session,
        secrets_are_forgotten_from_the_wrong_end,
        a_hub_sweeps_once_or_never,
        lost_tunnels_are_not_rebuilt,
        tunnels_are_not_proved,
        tunnels_outlive_their_session,
        dead_tunnelers_are_thought_alive,
        appends_are_not_compared,
        messages_are_acknowledged_before_they_are_handled,
        a_session_may_end_twice,
        a_hub_starts_again_before_the_old_session_is_over,
        a_moved_tunnel_moves_no_route,
        servers_are_ready_before_they_answer,
    )
}


def a_stop_believes_one_denial(stack: ExitStack) -> None:
    _put(stack, act, "MISSING_BELIEVED", 1)


def whoever_finds_two_jobs_removes_one(stack: ExitStack) -> None:
    create = act.Actor.__dict__["_create"]

    async def tidy(self: Any, request: Any, system: Any, site: Any, owner: Any) -> Any:
        created = await create(self, request, system, site, owner)
        for double in await site.find(act.script.marks_of(self._installation, request), owner):
            if double != created.job:
                await site.delete(double, owner)
        return created

    _put(stack, act.Actor, "_create", tidy)


PLANTED_FOR_ORDERS: dict[str, Plant] = {
    plant.__name__: plant for plant in (a_stop_believes_one_denial, whoever_finds_two_jobs_removes_one)
}
"""Defects the product had. They show only where moments meet that the whole simulation rarely brings together."""


def half_taken_shares_are_given_back_at_once(stack: ExitStack) -> None:
    """Two replicas may try the same start, and one of them admits it."""
    reserve = ledger.Ledger.__dict__["reserve"]

    async def tidy(self: Any, request: Any) -> Any:
        why = await reserve(self, request)
        if why is not None:
            await self.release(request.session, Use())
        return why

    _put(stack, ledger.Ledger, "reserve", tidy)


def who_waits_is_forgotten(stack: ExitStack) -> None:
    _put(stack, admit.Admission, "turns", lambda self: [])


PLANTED_FOR_CROWD: dict[str, Plant] = {
    plant.__name__: plant for plant in (half_taken_shares_are_given_back_at_once, who_waits_is_forgotten)
}
"""Defects that it takes a crowd at the accounts to show."""


def a_passed_deadline_ends_a_pod_that_may_run(stack: ExitStack) -> None:
    give_up = cloud_app.give_up

    def careless(state: Any, error: Any) -> Any:
        if isinstance(state, Created):
            return [Emit(ends.ended(state.request, "expired", error.reason))]
        return give_up(state, error)

    _put(stack, cloud_app, "give_up", careless)


def pods_are_not_ended(stack: ExitStack) -> None:
    _without(stack, cloud_app, Stopping)


PLANTED_FOR_DECIDERS: dict[str, Plant] = {
    plant.__name__: plant for plant in (a_passed_deadline_ends_a_pod_that_may_run, pods_are_not_ended)
}
"""Defects of the cloud launcher, which had the first of them."""


SHOWN_BY: dict[str, int] = {
    "a_share_is_reserved_again_at_every_try": 58,
    "a_passed_deadline_ends_a_job_that_may_run": 731,
    "orphans_are_left_alone": 28,
    "silence_is_taken_for_the_end": 56,
    "secrets_are_forgotten_from_the_wrong_end": 66,
    "stops_are_believed_without_proof": 20,
    "dead_tunnelers_are_thought_alive": 26,
    "a_hub_starts_again_before_the_old_session_is_over": 30,
    "quotas_are_one_too_generous": 5,
    "one_denial_is_believed": 7,
}
"""Seeds that once showed a defect, tried first; where they no longer do, others are searched."""


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """The defect is there while the context lasts."""
    with ExitStack() as stack:
        (PLANTED | PLANTED_FOR_ORDERS | PLANTED_FOR_CROWD | PLANTED_FOR_DECIDERS)[name](stack)
        yield
