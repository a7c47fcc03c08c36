"""A crowd at the accounts: hundreds of starts and stops, limits that move, drains, kills, and no launcher at all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from schemas.acts import Act, LimitRequested
from schemas.base import SessionId, UserName
from schemas.lifecycle import NOT_STARTED, Admitted, Ended, Requested, Waiting, WithJob
from schemas.quota import LimitOf, LimitValue
from schemas.session import HpcPlace, JobCreated, Resources, SessionEnded, SessionEvent, StartRequested, Use
from schemas.system import SystemDrained, SystemEvent, SystemResumed
from schemas.wire import encode
from services._runtime.systems import cores_of
from services.accounts import settings
from services.accounts.settings import Quota
from tests.simulation import parts
from tests.simulation.orders.chances import Chances
from tests.simulation.orders.process import Process
from tests.simulation.orders.world import World

STARTS = 250
HOUR = 3600


class Crowd(World):
    """Many users at one system, whose sessions end when they like."""

    _stopping = False
    users = ("ada", "ben", "cleo", "dan", "eve", "fay")

    def draw(self) -> Chances:
        return Chances(
            moments=9_000,
            replicas={"accounts": self.random.choice((1, 2, 3)), "launcher": 0, "tunneler": 0},
            sessions=STARTS,
            quota_limit=self.random.choice((3, 6, 12)),
            when_full=self.random.choice(("reject", "wait", "wait")),
            loss=self.random.choice((0.0, 0.01, 0.05)),
            kills=12,
            site_deaths=0,
            stops=0.0,
            deadline_seconds=self.random.choice((HOUR, 240.0 * HOUR, 240.0 * HOUR)),
            denials=0,
            silences=0,
            hostile=False,
            one_server=False,
        )

    def limits(self) -> list[Quota]:
        system, most, when_full = self.system.name, self.chances.quota_limit, self.chances.when_full
        return [
            Quota(system=system, limit=most, per_user=max(1, most // 2), when_full=when_full),
            Quota(system=system, resource="gpus", limit=8, when_full=when_full),
            Quota(system=system, resource="nodes", limit=10, when_full=when_full),
            Quota(system=system, resource="memory-bytes", per_user=2**36, when_full="reject"),
            Quota(system=system, resource="core-seconds", limit=20_000_000, per_user=5_000_000, period="day"),
        ]

    def waiting(self) -> settings.Waiting:
        return settings.Waiting(
            when_drained=self.random.choice(("reject", "wait")), longest_seconds=48.0 * HOUR, most=40, most_per_user=9
        )

    def happen(self) -> None:
        chance = self.random.random()
        if chance < 0.10:
            self.start_next()
        elif chance < 0.30:
            self._goes_on()
        elif chance < 0.33 and self._started:
            self._stop(self.random.choice(self._started))
        elif chance < 0.60:
            self.deliver()
        elif chance < 0.84:
            self._replica().follow()
        elif chance < 0.90:
            self._account(self._replica())
        elif chance < 0.92:
            self._limit()
        elif chance < 0.93:
            self._drain(self.random.random() < 0.4)
        elif chance < 0.95 and self.in_hand:
            self.pending.append(self.random.choice(self.in_hand).again)
        elif chance < 0.98:
            self.turns.now += self.random.choice((1.0, 1.0, 10.0, 60.0, 60.0, 3.0 * HOUR))
        elif self.chances.kills:
            self.chances.kills -= 1
            self.kill(self._replica())

    def _replica(self) -> Process:
        return self.random.choice(self.replicas["accounts"])

    def _start(self, session: SessionId, user: str) -> None:
        self._started.append(session)
        user = self.random.choice(self.users)
        resources = Resources(
            runtime_seconds=self.random.choice((600, HOUR, 4 * HOUR)),
            cores=self.random.choice((None, 1, 4)),
            gpus=self.random.choice((0, 0, 1, 4)),
            memory_bytes=self.random.choice((None, None, None, 2**34)),
        )
        self._record(
            StartRequested(
                hub=parts.configuration().shared.installation.hub,
                system=self.system.name,
                session=session,
                user=UserName(user),
                server_name=session,
                place=HpcPlace(account=f"{user}1", project="ztrain", partition="batch"),
                resources=resources,
                deadline=self.clock(self.hub) + timedelta(seconds=self.chances.deadline_seconds),
            )
        )

    def _goes_on(self) -> None:
        """A session that was admitted gets its job, or ends."""
        live = [state for state in self.invariants.states.values() if isinstance(state, Admitted | WithJob)]
        if not live:
            return
        request = self.random.choice(live).request
        if self.random.random() < 0.5:
            self._record(JobCreated(hub=request.hub, system=request.system, session=request.session, job="job"))
        else:
            self._end(request)

    def _end(self, request: StartRequested) -> None:
        ran_seconds = int(request.resources.runtime_seconds * self.random.random())
        use = Use(core_seconds=ran_seconds * cores_of(self.system, request.place, request.resources))
        self._record(
            SessionEnded(
                hub=request.hub,
                system=request.system,
                session=request.session,
                outcome="finished",
                reason="over",
                use=use,
            )
        )

    def _limit(self) -> None:
        """An operator sets a limit."""
        of: LimitOf = self.random.choice(("all", "each-user"))
        values: Sequence[LimitValue] = (0, 4, 8, 20, "unlimited", "configured", "configured")
        self._operator(
            LimitRequested(
                service="accounts",
                by="op",
                reason="a workshop",
                vo="default",
                system=self.system.name,
                resource=self.random.choice(("sessions", "gpus", "nodes")),
                of=of,
                value=self.random.choice(values),
            )
        )

    def _drain(self, drain: bool) -> None:
        event = SystemDrained if drain else SystemResumed
        self._operator(event(system=self.system.name, by="op", reason="work on it"))

    def _operator(self, said: Act | SystemEvent) -> None:
        acts = isinstance(said, Act)
        stream = self.broker.streams["ACTS" if acts else "SYSTEMS"]
        stamped = parts.stamp(self.hub, "operator-cli")(said, after=len(stream), cause=None)  # type: ignore[arg-type]
        subjects = parts.SUBJECTS
        subject = subjects.act(stamped) if isinstance(stamped, Act) else subjects.system_event("demo-hpc", "said")
        held = self.broker.within("ACTS" if acts else "SYSTEMS", subject)
        after = held[-1].recorded.sequence if held else 0
        self.broker.append("ACTS" if acts else "SYSTEMS", subject, encode(stamped), subject, after)

    def cease(self) -> None:
        """The system takes starts again, and nothing goes wrong any more."""
        self.calm = True
        self._drain(False)

    def everybody_looks(self) -> None:
        self.turns.now += 31.0
        for process in self.replicas["accounts"]:
            self._account(process)
        self.rest()
        if self._stopping:
            self.stop_all()

    def stop_all(self) -> None:
        """Everybody stops; whoever still comes to be admitted is ended too."""
        self._stopping = True
        for state in list(self.invariants.states.values()):
            if isinstance(state, Requested | Waiting):
                self._stop(state.request.session)
            elif not isinstance(state, Ended) and state is not NOT_STARTED:
                self._end(state.request)

    def unsettled(self) -> list[tuple[str, str]]:
        """Who is neither over, nor in, nor kept by a limit; and whose turn did not come though there is room."""
        found = self.invariants.unsettled()
        return [each for each in found if not each[1].endswith((" Admitted", " Created", " Cancelling", " Stopping"))]

    def outcomes(self) -> dict[str, int]:
        """How many sessions came to what, and how many waited: a run in which nothing happens proves nothing."""
        told: dict[str, int] = {"waited": 0, "limits": len(self.broker.streams["ACTS"])}
        waited = {each.recorded.message.session for each in self._said("StartWaiting")}
        told["waited"] = len(waited)
        told["admitted-after-waiting"] = len({e.recorded.message.session for e in self._said("StartAdmitted")} & waited)
        for stored in self._said("StartRejected"):
            told[stored.recorded.message.code] = told.get(stored.recorded.message.code, 0) + 1
        return told

    def _said(self, name: str):  # type: ignore[no-untyped-def]
        return [
            stored
            for stored in self.broker.streams["SESSIONS"]
            if type(stored.recorded.message).__name__ == name and isinstance(stored.recorded.message, SessionEvent)
        ]
