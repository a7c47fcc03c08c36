"""Sessions and events for tests, complete and valid. Omits nothing: every field a real event has is set."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ulid import ULID

from schemas.base import HubName, SessionId, SystemName, UserName
from schemas.session import (
    HpcPlace,
    JobCreated,
    JobSubmitted,
    Resources,
    ServerListening,
    ServerReady,
    SessionEnded,
    StartAdmitted,
    StartRequested,
    StopRequested,
    TunnelReady,
)
from services._runtime.identity import Stamp

HUB = HubName("main")
SYSTEM = SystemName("demo-hpc")
NOW = datetime.now(UTC).replace(microsecond=0)
"""When the tests began, and not a date that grows old: parts on the real clock measure deadlines and bounds by it."""


def new_session() -> SessionId:
    """A fresh session id."""
    return SessionId(str(ULID()).lower())


def stamp(source: str = "test", now: Callable[[], datetime] = lambda: NOW) -> Stamp:
    """A stamp with a fixed key and the time when the tests began, or that of a clock."""
    return Stamp(source, b"0123456789abcdef0123456789abcdef", now)


class Story:
    """The events of one session, one method each, in the words of the catalogue."""

    def __init__(self, session: SessionId | None = None, user: str = "ada", server_name: str = "") -> None:
        self.session = session or new_session()
        self.user = user
        self.server_name = server_name

    def requested(self, runtime_seconds: int = 3600, partition: str = "batch") -> StartRequested:
        return StartRequested(
            hub=HUB,
            system=SYSTEM,
            session=self.session,
            user=UserName(self.user),
            server_name=self.server_name,
            place=HpcPlace(account="ada1", project="ztrain", partition=partition),
            resources=Resources(runtime_seconds=runtime_seconds),
            base_url=f"/user/{self.user}/",
            deadline=NOW + timedelta(hours=24),
        )

    def admitted(self) -> StartAdmitted:
        return StartAdmitted(hub=HUB, system=SYSTEM, session=self.session, site_identity="CN=Ada")

    def created(self, job: str = "job-1") -> JobCreated:
        return JobCreated(hub=HUB, system=SYSTEM, session=self.session, job=job)

    def submitted(self) -> JobSubmitted:
        return JobSubmitted(hub=HUB, system=SYSTEM, session=self.session)

    def listening(self, host: str = "127.30.0.11", port: int = 9000) -> ServerListening:
        return ServerListening(hub=HUB, system=SYSTEM, session=self.session, host=host, port=port)

    def tunnel(self, generation: int = 1, port: int = 7000) -> TunnelReady:
        return TunnelReady(
            hub=HUB,
            system=SYSTEM,
            session=self.session,
            host="127.0.0.1",
            port=port,
            generation=generation,
            replica="tunneler-1",
        )

    def ready(self) -> ServerReady:
        return ServerReady(hub=HUB, system=SYSTEM, session=self.session)

    def stop(self) -> StopRequested:
        return StopRequested(hub=HUB, system=SYSTEM, session=self.session, by=self.user, reason="enough")

    def ended(self) -> SessionEnded:
        return SessionEnded(hub=HUB, system=SYSTEM, session=self.session, outcome="stopped", reason="stopped by ada")
