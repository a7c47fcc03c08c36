"""Which sign-ins are good enough for which requirement, cell by cell; and what accounts say of the rest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.access import SignedIn, SignedOut, SignInEvent
from schemas.base import SignInId, SystemName, UserName
from schemas.session import SessionEnded, StartRejected, StepUp
from schemas.subjects import Subjects
from services._runtime.configuration import ConfigurationError
from services._runtime.memory import MemoryBucket, MemoryLog
from services._runtime.rpc import MemoryRpc
from services._runtime.systems import SecondFactor, load_system
from services._runtime.vault import Vault, make_keys
from services.accounts.access import AccessBook
from services.accounts.app import AccountsApp
from services.accounts.organisations import Organisation
from services.accounts.second_factor import Authentication, too_weak
from services.accounts.settings import AccountsSettings
from services.accounts.sign_ins import SignInDesk
from services.accounts.tokens import TokenKeeper
from tests.support.catalogue import system, user
from tests.support.samples import HUB, Story, new_session, stamp

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SUBJECTS = Subjects()
EITHER = SecondFactor(levels=["mfa", "https://refeds.org/profile/mfa"], methods=["otp", "hwk"])
RECENT = SecondFactor(levels=["mfa"], max_age_seconds=600)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("required", "authentication", "why"),
    [
        (EITHER, Authentication(level="mfa"), None),
        (EITHER, Authentication(level="https://refeds.org/profile/mfa"), None),
        (EITHER, Authentication(level="password", methods=["pwd", "otp"]), None),
        (EITHER, Authentication(level="password", methods=["pwd"]), "without one"),
        (EITHER, Authentication(level="MFA"), "without one"),
        (EITHER, Authentication(), "without one"),
        (EITHER, None, "did not come from a browser"),
        (SecondFactor(methods=["otp"]), Authentication(level="mfa"), "without one"),
        (RECENT, Authentication(level="mfa", at=ago(600)), None),
        (RECENT, Authentication(level="mfa", at=ago(601)), "last 10 minutes"),
        (RECENT, Authentication(level="mfa", at=ago(-60)), None),
        (RECENT, Authentication(level="mfa", at=ago(-61)), "does not say when"),
        (RECENT, Authentication(level="mfa"), "does not say when"),
        (RECENT, Authentication(level="password", at=NOW), "without one"),
    ],
)
def test_each_sign_in_is_good_enough_or_told_why_not(
    required: SecondFactor, authentication: Authentication | None, why: str | None
) -> None:
    weak = too_weak(required, "Demo HPC", authentication, NOW)
    if why is None:
        assert weak is None
        return
    assert weak is not None
    assert why in weak.message
    assert weak.message.startswith("Demo HPC wants")
    assert weak.step_up == StepUp(levels=list(required.levels), max_age_seconds=required.max_age_seconds)


@given(
    st.lists(st.sampled_from(["mfa", "gold"])),
    st.lists(st.sampled_from(["otp", "pwd"])),
    st.none() | st.integers(1, 7200),
    st.sampled_from(["", "mfa", "gold", "password"]),
    st.lists(st.sampled_from(["otp", "pwd"])),
    st.none() | st.integers(-200, 10_000),
)
def test_nothing_weaker_than_required_ever_passes(
    levels: list[str], methods: list[str], limit: int | None, level: str, used: list[str], age: int | None
) -> None:
    at = None if age is None else ago(age)
    weak = too_weak(
        SecondFactor(levels=levels, methods=methods, max_age_seconds=limit),
        "it",
        Authentication(level=level, methods=used, at=at),
        NOW,
    )
    strong = level in levels or bool(set(used) & set(methods))
    recent = limit is None or (age is not None and -60 <= age <= limit)
    assert (weak is None) == (strong and recent)


class Nobody:
    """No provider: nothing here may need one."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the provider was asked: {name}")


def accounts(folder: Path, log: MemoryLog, *organisations: Organisation) -> AccountsApp:
    make_keys(folder)
    vault = Vault(MemoryBucket(), folder, "accounts")
    nobody: object = Nobody()
    tokens = TokenKeeper(
        bucket=MemoryBucket(),
        leases=MemoryBucket(),
        vault=vault,
        provider=nobody,
        replica="one",
        now=lambda: NOW,  # type: ignore[arg-type]
    )
    strict = msgspec.structs.replace(system(), second_factor=RECENT)
    systems = {SystemName("demo-hpc"): system() if organisations else strict}
    settings = AccountsSettings(
        users=[user("ada"), user("ben")], organisations=list(organisations), reconcile_seconds=3600
    )
    book = AccessBook(
        log=log, bucket=MemoryBucket(), subjects=SUBJECTS, stamp=stamp("accounts"), systems=systems, settings=settings
    )
    desk = SignInDesk(
        log=log,
        rpc=MemoryRpc(),
        subjects=SUBJECTS,
        vault=vault,
        tokens=tokens,
        provider=nobody,  # type: ignore[arg-type]
        learns=book,
        revoke_at_sign_out=True,
        now=lambda: NOW,
    )
    return AccountsApp(
        book=book,
        log=log,
        subjects=SUBJECTS,
        stamp=stamp("accounts"),
        systems=systems,
        settings=settings,
        desk=desk,
        now=lambda: NOW,
    )


async def say(log: MemoryLog, event: SignInEvent) -> None:
    scope = SUBJECTS.sign_in(event.user, event.sign_in)
    history = await log.history("ACCESS", scope)
    after = history[-1].sequence if history else 0
    stamped = stamp("hub")(event, after=after, cause=None)
    await log.append("ACCESS", SUBJECTS.sign_in_event(stamped), stamped, scope=scope, after=after)


async def start(log: MemoryLog, sign_in: SignInId | None, who: str = "ada", vo: str = "default") -> list[object]:
    story = Story(user=who)
    place = msgspec.structs.replace(story.requested().place, account=f"{who}1")
    event = msgspec.structs.replace(story.requested(), sign_in=sign_in, place=place, vo=vo)
    stamped = stamp("hub")(event, after=0, cause=None)
    scope = SUBJECTS.session(story.session)
    await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=0)
    await log.settled()
    return [each.message for each in await log.history("SESSIONS", scope)][1:]


async def test_a_start_on_a_strict_system_needs_the_second_factor_of_its_own_browser(tmp_path: Path) -> None:
    log = MemoryLog()
    app = accounts(tmp_path, log)
    await app.start()
    weak, strong, theirs, gone = (SignInId(new_session()) for _ in range(4))
    ada, ben = UserName("ada"), UserName("ben")
    await say(log, SignedIn(user=ada, hub=HUB, sign_in=weak, level="password", authenticated_at=NOW))
    await say(log, SignedIn(user=ada, hub=HUB, sign_in=strong, level="mfa", authenticated_at=ago(30)))
    await say(log, SignedIn(user=ben, hub=HUB, sign_in=theirs, level="mfa", authenticated_at=NOW))
    await say(log, SignedIn(user=ada, hub=HUB, sign_in=gone, level="mfa", authenticated_at=NOW))
    await say(log, SignedOut(user=ada, hub=HUB, sign_in=gone))

    assert type((await start(log, strong))[0]).__name__ == "StartAdmitted"
    for sign_in in (weak, None, gone, theirs, SignInId(new_session())):
        rejection, end = await start(log, sign_in)
        assert isinstance(rejection, StartRejected)
        assert rejection.code == "second-factor"
        assert rejection.step_up == StepUp(levels=["mfa"], max_age_seconds=600)
        assert isinstance(end, SessionEnded)
        assert end.step_up == rejection.step_up
    assert type((await start(log, theirs, "ben"))[0]).__name__ == "StartAdmitted"
    await app.close()


async def test_an_organisation_asks_its_members_for_what_the_system_does_not(tmp_path: Path) -> None:
    log = MemoryLog()
    strict = Organisation(name="clinic", title="The clinic", users=["ada"], second_factor=RECENT)
    app = accounts(tmp_path, log, strict)
    await app.start()
    weak, strong = SignInId(new_session()), SignInId(new_session())
    await say(log, SignedIn(user=UserName("ada"), hub=HUB, sign_in=weak, level="password", authenticated_at=NOW))
    await say(log, SignedIn(user=UserName("ada"), hub=HUB, sign_in=strong, level="mfa", authenticated_at=NOW))
    assert type((await start(log, weak))[0]).__name__ == "StartAdmitted"
    assert type((await start(log, strong, vo="clinic"))[0]).__name__ == "StartAdmitted"
    rejection, _ = await start(log, weak, vo="clinic")
    assert isinstance(rejection, StartRejected)
    assert rejection.message == "The clinic wants a second factor, and you signed in without one."
    assert rejection.step_up == StepUp(levels=["mfa"], max_age_seconds=600)
    await app.close()


def test_a_requirement_that_nobody_could_meet_is_named(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "systems" / "demo-hpc.toml").read_text()
    (tmp_path / "strict.toml").write_text(text.replace("[job]", "[second_factor]\nmax_age_seconds = 600\n\n[job]"))
    with pytest.raises(ConfigurationError, match="second_factor names no levels and no methods"):
        load_system(tmp_path / "strict.toml")
    (tmp_path / "strict.toml").write_text(text.replace("[job]", '[second_factor]\nlevels = ["mfa"]\n\n[job]'))
    assert load_system(tmp_path / "strict.toml").second_factor == SecondFactor(levels=["mfa"])
