"""The world of one scenario: its parts, the ways between them, what went wrong and what was seen. Judges nothing."""

from __future__ import annotations

import random as product_random
from datetime import UTC, datetime
from random import Random

from schemas.base import SessionId
from schemas.lifecycle import Ended
from schemas.session import TunnelReady
from services._runtime.log import Recorded, Stream
from services.accounts.settings import Quota
from services.hub_bridge.sessions import ENDING
from services.tunneler.ports import Address
from tests.simulation import parts
from tests.simulation.broker import Broker
from tests.simulation.hub import Hub, Record, Server
from tests.simulation.invariants import Invariants
from tests.simulation.loop import OWNER, Life, SimLoop
from tests.simulation.process import Place, Process
from tests.simulation.scenario import Fault, Press, Scenario
from tests.simulation.site import Job, Site
from tests.simulation.tunnels import Tunnels

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


class World:
    """One run of one scenario."""

    def __init__(self, scenario: Scenario, trace: bool = False) -> None:
        self.scenario = scenario
        self.random = Random(scenario.seed * 7919 + 1)
        product_random.seed(scenario.seed)  # the jitter of the product follows the seed too
        self.violations: list[tuple[str, str]] = []
        self.trace: list[str] | None = [] if trace else None
        self.over = False
        self.calm = False
        self.loop = SimLoop(self.defect)
        self.system = parts.system()
        self.deadline_seconds = scenario.deadline_seconds
        self.quotas = [
            Quota(
                system=self.system.name,
                limit=scenario.quota_limit,
                per_user=scenario.quota_per_user,
                when_full=scenario.when_full,
            ),
        ]
        self.broker = Broker(self)
        self.site = Site(self, scenario.queue_seconds, scenario.boot_seconds)
        self.tunnels = Tunnels(self)
        self.servers: dict[Server, Record] = {}
        self.routes: dict[Server, tuple[SessionId, Address]] = {}
        self.invariants = Invariants(self)
        self.appends = 0
        self._down: dict[Place, int] = {"broker": 0, "site": 0}
        self._slow_site = 0
        self.processes = {
            name: Process(self, name, boot)
            for name, boot in [
                *self._replicas("accounts", parts.accounts(scenario.users, self.quotas)),
                *self._replicas("launcher", parts.launcher),
                *self._replicas("tunneler", parts.tunneler),
                ("hub", parts.hub),
            ]
        }
        for name, process in self.processes.items():
            process.skew_seconds = scenario.skews[name]

    def _replicas(self, service: str, boot):  # type: ignore[no-untyped-def]
        return [(f"{service}-{n + 1}", boot) for n in range(self.scenario.replicas[service])]

    # --- what is seen ----------------------------------------------------------------------------------------------

    def say(self, who: str, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.loop.now:8.3f}  {who:<11} {what}")

    def violated(self, kind: str, what: str) -> None:
        self.say("VIOLATION", f"{kind}: {what}")
        self.violations.append((kind, what))

    def defect(self, what: str) -> None:
        self.violated("defect", what)

    def appended(self, stream: Stream, recorded: Recorded) -> None:
        self.appends += 1
        if self.trace is not None:
            message = recorded.message
            session = getattr(message, "session", "")[-4:]
            change = getattr(message, "change", None)
            what = f"{type(message).__name__} {session}"
            if change is not None:
                what += f"{type(change).__name__} {getattr(change, 'session', '')[-4:]} -> {message.used}"  # type: ignore[attr-defined]
            for name in ("outcome", "job", "generation", "by"):
                if hasattr(message, name):
                    what += f" {name}={getattr(message, name)}"
            self.say("log", f"#{recorded.sequence} {what} ({message.source.rpartition('/')[2]})")
        self.invariants.appended(stream, recorded)

    def buried(self, subject: str, reasons: dict[str, str]) -> None:
        self.broker.dead.append((subject, reasons))
        self.say("broker", f"dead letter: {reasons}")
        if reasons.get("Farlab-Reason", "").startswith("failed "):
            self.defect(f"dead letter: {reasons['Farlab-Reason']}")

    def started(self, job: Job) -> None:
        self.invariants.started(job)

    def route(self, server: Server, session: SessionId | None, tunnel: TunnelReady | None) -> None:
        if session is None or tunnel is None:
            self.routes.pop(server, None)
        else:
            self.routes[server] = (session, Address(tunnel.host, tunnel.port))
            self.say("proxy", f"{server} -> {tunnel.port} ({session[-4:]})")

    def died(self, life: Life) -> None:
        self.broker.died(life)
        self.tunnels.died(life)

    # --- the network and the clocks --------------------------------------------------------------------------------

    def clock(self, process: Process) -> datetime:
        return datetime.fromtimestamp(parts.EPOCH + process.now(), UTC)

    def new_session(self) -> SessionId:
        text = f"{int((parts.EPOCH + self.loop.now) * 1000):010x}"
        return SessionId("0" + text[:9] + "".join(self.random.choice(CROCKFORD) for _ in range(16)))

    def is_down(self, place: Place) -> bool:
        return self._down[place] > 0

    def cut_off(self, process: Process, place: Place) -> bool:
        return self._down[place] > 0 or place in process.cut

    def lost(self, process: Process, place: Place) -> bool:
        if place in process.cut:
            return True
        return not self.calm and self.scenario.loss > 0 and self.random.random() < self.scenario.loss

    def doubled(self) -> bool:
        return not self.calm and self.scenario.doubling > 0 and self.random.random() < self.scenario.doubling

    def latency(self, place: Place) -> float:
        random = self.random.random
        if place == "site":
            if self._slow_site:
                return 20.0 * random()
            if not self.calm and random() < self.scenario.slowness:
                return 12.0 * random()
            return 0.005 + 0.05 * random()
        if not self.calm and self.scenario.slowness and random() < self.scenario.slowness:
            return 3.0 * random()
        return 0.0002 + 0.002 * random()

    # --- what happens ----------------------------------------------------------------------------------------------

    def press(self, press: Press) -> None:
        """A user presses a button; while the hub is away, again until it is there. After the chaos nobody does."""
        if self.calm:
            return
        self._press(press)

    def _press(self, press: Press) -> None:
        hub = self._hub()
        if hub is None:
            self.loop.after(1.0, self.press, press)
            return
        self.say(press.user, f"presses {press.button} of {press.server or 'the server'}")
        life = self.processes["hub"].life
        assert life is not None
        action = hub.press_start if press.button == "start" else hub.press_stop
        self.loop.call_soon(action, (press.user, press.server), context=life.context)

    def _hub(self) -> Hub | None:
        process = self.processes["hub"]
        running = process.running
        return running if process.awake and isinstance(running, Hub) and running.up else None

    def press_all_stops(self) -> bool:
        """Every user stops every server that is there. Whether the hub was there to be asked, and knew them all."""
        hub = self._hub()
        if hub is None:
            return False
        held = {spawner.session for spawner in hub.spawners.values()}
        goes_on = [id_ for id_, state in self.invariants.states.items() if not isinstance(state, Ended | ENDING)]
        if not held.issuperset(goes_on):
            return False
        for server, spawner in list(hub.spawners.items()):
            if spawner.session is not None or spawner.starting is not None:
                self._press(Press(self.loop.now, "stop", *server))
        return True

    def cease(self) -> None:
        """No more faults: what is down comes back in its time, and nothing new goes wrong."""
        self.say("WORLD", "no more faults")
        self.calm = True
        for process in self.processes.values():
            process.crash = None

    def apply(self, fault: Fault) -> None:
        """Something goes wrong."""
        if self.calm:
            return
        self.say("FAULT", str(fault))
        process = self.processes.get(fault.target)
        match fault.kind:
            case "crash" if process is not None:
                process.crash = (fault.calls, fault.moment)  # type: ignore[assignment]
            case "restart" if process is not None:
                process.restart()
            case "freeze" if process is not None:
                process.freeze(fault.seconds)
            case "cut-from-broker" if process is not None:
                self._cut(process, "broker", fault.seconds)
            case "cut-from-site" if process is not None:
                self._cut(process, "site", fault.seconds)
            case "broker-down":
                self._go_down("broker", fault.seconds)
            case "site-down":
                self._go_down("site", fault.seconds)
            case "site-slow":
                self._slow_site += 1
                self.loop.after(fault.seconds, self._site_quick)
            case "site-denies":
                self.site.denies.update(job.name for job in self.site.there())
            case "login-node-down":
                self.tunnels.login_node(False)
                self.loop.after(fault.seconds, self.tunnels.login_node, True)
            case "job-dies" | "server-quits":
                running = [job for job in self.site.there() if job.phase == "running"]
                if running:
                    self.site.end(self.random.choice(running), succeeded=fault.kind == "server-quits")
            case _:
                pass

    def _cut(self, process: Process, place: Place, seconds: float) -> None:
        process.cut.add(place)

        def heal() -> None:
            process.cut.discard(place)
            self.broker.back()

        self.loop.after(seconds, heal)

    def _go_down(self, place: Place, seconds: float) -> None:
        self._down[place] += 1

        def up() -> None:
            self._down[place] -= 1
            if not self.is_down(place):
                self.broker.back()

        self.loop.after(seconds, up)

    def _site_quick(self) -> None:
        self._slow_site -= 1

    def speaking(self) -> str:
        """Whose code runs now."""
        owner = OWNER.get()
        return owner.name if owner is not None else "world"
