"""The one place where a subject is spelled, built and parsed. Sends nothing.

The first token is the installation's prefix, the second the version of this grammar (see docs/architecture/events.md).
"""

from __future__ import annotations

import re
from hashlib import sha256

import msgspec

from schemas.access import SignInEvent
from schemas.acts import Act, SessionAct
from schemas.base import SLUG_PATTERN, HubName, SessionId, SignInId, SystemName, event_name
from schemas.quota import QuotaUpdated
from schemas.session import SessionEvent

GRAMMAR = "v1"
_SLUG = re.compile(SLUG_PATTERN)


class SubjectError(ValueError):
    """The subject is not one of this grammar."""


class SessionSubject(msgspec.Struct, frozen=True):
    """The tokens of an event's subject in the stream SESSIONS."""

    hub: HubName
    system: SystemName
    session: SessionId
    event: str


def slug(name: str) -> str:
    """A subject token for any name: itself where it is a slug already, else what is readable of it and a digest.

    Different names never share a slug, short of a collision in 48 bits of SHA-256; a name that looks
    like the slug of another is itself escaped, because only names without `--` pass unchanged.
    """
    if _SLUG.fullmatch(name) and "--" not in name:
        return name
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "x"
    return f"{readable}--{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


class Subjects(msgspec.Struct, frozen=True):
    """The subjects of one installation. `prefix` is a slug, so that several installations share one NATS."""

    prefix: str = "farlab"

    @property
    def root(self) -> str:
        """What every subject of the installation begins with."""
        return f"{self.prefix}.{GRAMMAR}"

    def session_event(self, event: SessionEvent) -> str:
        """Where an event of a session is appended."""
        return f"{self.root}.session.{event.hub}.{event.system}.{event.session}.{event_name(event)}"

    def session(self, session: SessionId) -> str:
        """All events of one session, whichever hub and system."""
        return f"{self.root}.session.*.*.{session}.>"

    def sessions(self, *, hub: str = "*", system: str = "*", event: type[SessionEvent] | None = None) -> str:
        """The events of sessions, of one hub, one system or one type where given."""
        return f"{self.root}.session.{hub}.{system}.*.{event_name(event) if event else '*'}"

    def quota_updated(self, event: QuotaUpdated) -> str:
        """Where a change of a quota is appended."""
        return f"{self.quota(event.vo, event.system, event.resource)}.quota-updated"

    def quota(self, vo: str, system: str, resource: str) -> str:
        """The subject of one quota, without its last token."""
        return f"{self.root}.quota.{vo}.{system}.{resource}"

    def sign_in_event(self, event: SignInEvent) -> str:
        """Where an event of a sign-in is appended: each sign-in has a scope of its own, so nobody waits for another."""
        return f"{self.root}.access.{slug(event.user)}.{event.sign_in}.{event_name(event)}"

    def sign_in(self, user: str, sign_in: SignInId) -> str:
        """All events of one sign-in."""
        return f"{self.root}.access.{slug(user)}.{sign_in}.*"

    def sign_ins(self, event: type[SignInEvent] | None = None) -> str:
        """The events of all sign-ins, of one type where given."""
        return f"{self.root}.access.*.*.{event_name(event) if event else '*'}"

    def access_changed(self, user: str) -> str:
        """Where a change of a user's access is appended; `*` selects everybody's."""
        return f"{self.root}.access.{user if user == '*' else slug(user)}.access-changed"

    def question(self, service: str, question: str) -> str:
        """Where a service is asked something; the name of the service that asks follows it."""
        return f"{self.root}.rpc.{service}.{question}"

    def system_event(self, system: str, event: str) -> str:
        """Where an event of a system is appended."""
        return f"{self.root}.system.{system}.{event}"

    def system(self, system: str) -> str:
        """All events of one system."""
        return f"{self.root}.system.{system}.>"

    def act(self, act: Act) -> str:
        """Where an operator's act is appended."""
        place = f"{act.service}.{act.system}.{act.session}" if isinstance(act, SessionAct) else act.service
        return f"{self.root}.act.{place}.{event_name(act)}"

    def acts(self, service: str, act: type[Act]) -> str:
        """The acts of one type, on no session in particular, that are for a service."""
        return f"{self.root}.act.{service}.{event_name(act)}"

    def session_acts(self, service: str, system: str = "*") -> str:
        """The acts on sessions that a service obeys."""
        return f"{self.root}.act.{service}.{system}.*.*"

    def dead_letter(self, service: str, event: str) -> str:
        """Where a service puts what it gave up on."""
        return f"{self.root}.dead.{service}.{slug(event) if event else 'undecodable'}"

    def family(self, family: str) -> str:
        """Every subject of one family: `session`, `quota`, `access`, `system`, `act` or `dead`."""
        return f"{self.root}.{family}.>"

    def parse_session(self, subject: str) -> SessionSubject:
        """The tokens of a session event's subject. Raises SubjectError for any other subject."""
        tokens = subject.split(".")
        head = [self.prefix, GRAMMAR, "session"]
        if len(tokens) != 7 or tokens[:3] != head:
            raise SubjectError(f"subject {subject!r} is not {'.'.join(head)}.<hub>.<system>.<session>.<event>")
        return SessionSubject(HubName(tokens[3]), SystemName(tokens[4]), SessionId(tokens[5]), tokens[6])
