"""Subjects: every name becomes a token and no two the same; what is built is parsed; a filter selects what it says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.acts import SecretsPurged
from schemas.base import SLUG_PATTERN, HubName, SystemName, event_name
from schemas.quota import LimitSet, QuotaUpdated
from schemas.session import JobCreated, SessionEvent, StartRequested, StopRequested
from schemas.subjects import SubjectError, Subjects, slug
from schemas.wire import CURRENT
from services._runtime.memory import selects

SESSIONS = st.from_regex(r"[0-7][0-9a-hjkmnp-tv-z]{25}", fullmatch=True)
SLUGS = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
AWKWARD = [
    "ada",
    "Ada",
    "ada--1",
    "ada--",
    "-ada",
    "äda",
    "ada.lovelace",
    "ada lovelace",
    "ada*",
    "*",
    ">",
    "$JS.API.STREAM.DELETE.SESSIONS",
    "../../etc/passwd",
    "$(id); rm -rf ~",
    "`id`",
    "<script>alert(1)</script>",
    "",
    " ",
    "\x00",
    "\r\nNats-Msg-Id: 1",
    "\ud800",
    "\u202eada",
    "ａｄａ",
    "李小龙",
    "x" * 300,
    "é" * 300,
    "x" * 63,
    "x" * 64,
]
NAMES = st.text(max_size=300) | st.text(st.characters(), max_size=5) | SLUGS | st.sampled_from(AWKWARD)
SESSION_EVENTS = [message for message in CURRENT if issubclass(message, SessionEvent)]


@given(NAMES)
def test_every_name_has_a_slug_that_is_one_token(name: str) -> None:
    token = slug(name)
    assert re.fullmatch(SLUG_PATTERN, token)
    assert len(token) <= 63
    assert not set(token) & set("*>. \t\r\n/$\x00")
    assert slug(name) == token, "the same each time"


@given(SLUGS)
def test_a_name_that_is_a_slug_stays_readable(name: str) -> None:
    assert "--" in name or slug(name) == name


@given(st.lists(NAMES, unique=True, min_size=2, max_size=30))
def test_different_names_have_different_slugs(names: list[str]) -> None:
    assert len({slug(name) for name in names}) == len(names)


def test_awkward_names_have_different_slugs_and_none_is_the_slug_of_another() -> None:
    slugs = [slug(name) for name in AWKWARD]
    assert len(set(slugs)) == len(AWKWARD)
    assert not {slug(each) for each in slugs if "--" in each} & set(slugs)


@given(SLUGS, SLUGS, SLUGS, SESSIONS, st.sampled_from(SESSION_EVENTS))
def test_a_filter_selects_its_own_and_nothing_else(
    prefix: str, hub: str, system: str, session: str, event: type[SessionEvent]
) -> None:
    subjects, others = Subjects(prefix), Subjects(prefix + "0")
    subject = f"{subjects.root}.session.{hub}.{system}.{session}.{event_name(event)}"
    tokens = subjects.parse_session(subject)
    assert (tokens.hub, tokens.system, tokens.session, tokens.event) == (hub, system, session, event_name(event))
    assert selects(subjects.session(tokens.session), subject)
    assert selects(subjects.sessions(hub=hub), subject)
    assert selects(subjects.sessions(system=system, event=event), subject)
    assert selects(subjects.family("session"), subject)
    assert not selects(subjects.sessions(hub=hub + "0"), subject)
    assert not selects(subjects.sessions(system=system + "0"), subject)
    assert not selects(subjects.family("quota"), subject)
    assert not selects(others.family("session"), subject)
    for another in SESSION_EVENTS:
        assert selects(subjects.sessions(event=another), subject) == (another is event)
    with pytest.raises(SubjectError):
        others.parse_session(subject)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        ".",
        "farlab",
        "farlab.v1.session.a.b.c",
        "farlab.v1.session.a.b.c.d.e",
        "other.v1.session.a.b.c.d",
        "farlab.v2.session.a.b.c.d",
        "farlab.v1.quota.a.b.c.d",
        "farlab.v1.dead.svc.start-requested",
    ],
)
def test_other_subjects_are_not_parsed(subject: str) -> None:
    with pytest.raises(SubjectError, match=r"is not farlab\.v1\.session"):
        Subjects().parse_session(subject)


def test_every_family_has_its_own_place() -> None:
    subjects = Subjects("inst")
    quota = QuotaUpdated(
        vo="default", system=SystemName("juwels"), resource="sessions", used=0, change=LimitSet(by="op", reason="new")
    )
    built = {
        "quota": subjects.quota_updated(quota),
        "access": subjects.access_changed("../Ada"),
        "system": subjects.system_event("juwels", "system-drained"),
        "dead": subjects.dead_letter("accounts", ""),
        "act": subjects.act(SecretsPurged(service="accounts", by="op", reason="ended", names=[])),
    }
    assert built["quota"] == "inst.v1.quota.default.juwels.sessions.quota-updated"
    assert built["dead"] == "inst.v1.dead.accounts.undecodable"
    for family, subject in built.items():
        assert [each for each in (*built, "session") if selects(subjects.family(each), subject)] == [family]


@given(NAMES)
def test_a_dead_letter_of_anything_has_one_token_for_it(event: str) -> None:
    assert len(Subjects().dead_letter("accounts", event).split(".")) == 5


def test_a_stop_and_a_start_differ_in_their_last_token_only() -> None:
    subjects = Subjects()
    assert (
        subjects.sessions(event=StartRequested).rpartition(".")[0]
        == subjects.sessions(event=StopRequested).rpartition(".")[0]
    )
    assert subjects.sessions(hub=HubName("main"), event=JobCreated) == "farlab.v1.session.main.*.*.job-created"
