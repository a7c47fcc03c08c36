"""Accounts, launcher and tunneler with backends that take no time: everything of a service but the world.

`python -m benchmarks.instant_services SERVICE NATS_URL` runs one of them until it is told to stop.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

import nats
import uvloop

from schemas.base import SystemName
from schemas.session import (
    JobCreated,
    JobSubmitted,
    ServerListening,
    SessionEnded,
    SessionEvent,
    StartAdmitted,
    TunnelReady,
)
from schemas.subjects import Subjects
from services._runtime.identity import Stamp
from services._runtime.jetstream import JetStreamLog
from services._runtime.service import utc_now
from services._runtime.session_service import SessionService
from services._runtime.telemetry import configure_logs
from services.accounts import decide as accounts
from services.hpc_launcher import decide as launcher
from services.tunneler import decide as tunneler

SYSTEM = SystemName("bench")


async def admit(command: accounts.Command) -> Sequence[SessionEvent]:
    """Admits every start at once."""
    request = command.request
    if isinstance(command, accounts.Admit):
        return [StartAdmitted(hub=request.hub, system=request.system, session=request.session)]
    return []


async def launch(command: launcher.Command) -> Sequence[SessionEvent]:
    """Every job exists, starts and listens at once."""
    request = command.request
    match command:
        case launcher.CreateJob():
            return [JobCreated(hub=request.hub, system=request.system, session=request.session, job="j")]
        case launcher.SubmitJob():
            return [
                JobSubmitted(hub=request.hub, system=request.system, session=request.session),
                ServerListening(hub=request.hub, system=request.system, session=request.session, host="n", port=9000),
            ]
        case launcher.EndJob():
            return [
                SessionEnded(
                    hub=request.hub, system=request.system, session=request.session, outcome="stopped", reason="asked"
                )
            ]
        case launcher.ClearAway() | launcher.RemoveStray():
            return []


async def lead(command: tunneler.Command) -> Sequence[SessionEvent]:
    """Every server is reachable at once."""
    request = command.request
    if isinstance(command, tunneler.OpenTunnel):
        return [
            TunnelReady(
                hub=request.hub,
                system=request.system,
                session=request.session,
                host="127.0.0.1",
                port=7000,
                generation=command.generation,
                replica="bench",
            )
        ]
    return []


def build(service: str, log: JetStreamLog, subjects: Subjects, system: SystemName = SYSTEM) -> SessionService[object]:
    """One of the three services around its real decider."""
    module = {"accounts": accounts, "hpc-launcher": launcher, "tunneler": tunneler}[service]
    perform = {"accounts": admit, "hpc-launcher": launch, "tunneler": lead}[service]
    return SessionService(
        service=service,
        log=log,
        subjects=subjects,
        stamp=Stamp(f"bench/{service}", b"0123456789abcdef", utc_now),
        decide=module.decide,
        perform=perform,  # type: ignore[arg-type]
        give_up=module.give_up,
        consumes=module.CONSUMES,
        systems=[system],
    )


async def run(service: str, url: str) -> None:
    """Runs one service; prints `ready` when it is."""
    configure_logs(service, level="warning")
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    client = await nats.connect(url)
    subjects = Subjects()
    built = build(service, JetStreamLog(client, subjects), subjects)
    await built.start()
    print("ready", flush=True)
    await stopping.wait()
    await built.close()
    await client.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(sys.argv[1], sys.argv[2]))
