"""Starts that travel with their user's own token: launcher, accounts, an emulated provider and an emulated site."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from emulators.identity_provider.configuration import Lifetimes
from emulators.unicore_site.site import UnicoreSite
from schemas.base import UserName
from schemas.lifecycle import Ended, Listening
from schemas.session import ProgressReported
from schemas.subjects import Subjects
from services._runtime.errors import PermanentError, TransientError
from services._runtime.memory import MemoryBucket
from services._runtime.rpc import MemoryRpc
from services._runtime.systems import System
from services._runtime.vault import Vault, make_keys
from services.hpc_launcher.app import site_of
from services.hpc_launcher.ports import Owner
from services.hpc_launcher.unicore_documents import same_name
from services.hpc_launcher.user_tokens import AccountsTokens
from tests.services.accounts.test_sign_ins import Clock
from tests.services.accounts.test_sign_ins import Stage as Accounts
from tests.services.hpc_launcher import stand_in
from tests.services.hpc_launcher.stage import SUBJECTS, Stage, emulated_site, system_at
from tests.services.hpc_launcher.test_unicore import described
from tests.support.identity_provider import identity_provider
from tests.support.samples import NOW, Story

DAY = 86_400


class World:
    """One provider, accounts before it, one site that asks it about tokens, one launcher before that."""

    def __init__(self, folder: Path, accounts: Accounts, site: UnicoreSite, system: System) -> None:
        self.accounts, self.emulated, self.system = accounts, site, system
        vault = Vault(accounts.vaulted, folder, "hpc-launcher")
        self.tokens = AccountsTokens(rpc=accounts.rpc, subjects=SUBJECTS, vault=vault, service="hpc-launcher")
        self.launcher = Stage(system, folder, site=site_of(system, self.tokens.for_audience), now=lambda: NOW)

    async def words(self, story: Story) -> list[str]:
        """What the session's user was told on the way."""
        history = await self.launcher.log.history("SESSIONS", SUBJECTS.session(story.session))
        return [each.message.message for each in history if isinstance(each.message, ProgressReported)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    lifetimes = Lifetimes(access_token_seconds=300, refresh_token_seconds=DAY)
    async with (
        identity_provider(lifetimes=lifetimes, now=clock.seconds) as provider,
        emulated_site(tmp_path, userinfo_url=f"{provider.issuer}/userinfo") as (site, key),
    ):
        accounts = Accounts(tmp_path, provider, clock)
        desk = accounts.desk()
        await desk.start()
        prologue = [f"export PYTHONPATH={stand_in.install(tmp_path)}"]
        system = system_at(site, key, prologue=prologue, server_start_seconds=20)
        system = msgspec.structs.replace(system, site=msgspec.structs.replace(system.site, credentials="user-token"))
        world = World(tmp_path, accounts, site, system)
        await world.launcher.app.start()
        yield world
        await world.launcher.app.close()
        await desk.close()
        await accounts.browser.close()


async def test_a_start_travels_with_a_fresh_token_and_is_watched_and_stopped_long_after_the_sign_in(
    world: World,
) -> None:
    await world.accounts.sign_in()
    provider, launcher = world.accounts.provider, world.launcher
    stories = [Story(), Story()]
    for number, story in enumerate(stories, start=1):
        await launcher.admit(story)
        await launcher.until(story, Listening)
        assert world.accounts.refreshes() == 1 + number  # the sign-in itself, and a token for each start
        assert provider.requests["/userinfo"] == 2 * number
        world.accounts.clock.tick(280)  # what the last start had is as good as expired
    world.accounts.clock.tick(2 * DAY)
    with pytest.raises(PermanentError, match="No sign-in of this user holds any more"):
        await world.tokens.token(UserName("ada"), "")
    for story in stories:
        await launcher.append(story.stop())
        ended = await launcher.until(story, Ended)
        assert isinstance(ended, Ended)
        assert ended.end.outcome == "stopped"
    await launcher.log.settled()
    assert world.emulated.store.jobs == {}
    assert provider.requests["/userinfo"] == 4


async def test_without_a_sign_in_that_holds_no_job_is_made_and_the_user_is_told_to_sign_in(world: World) -> None:
    story = Story()
    await world.launcher.admit(story)
    ended = await world.launcher.until(story, Ended)
    assert isinstance(ended, Ended)
    assert (ended.end.outcome, ended.end.reason) == ("failed", "No sign-in of this user holds any more.")
    assert "Sign in again" in ended.end.remedy
    assert world.emulated.store.jobs == {}


async def test_a_provider_that_is_down_in_the_middle_of_a_start_delays_it_and_loses_nothing(world: World) -> None:
    await world.accounts.sign_in()
    world.accounts.provider.away = True
    story = Story()
    await world.launcher.admit(story)
    await world.launcher.said(story, "ProgressReported")
    assert "No access token can be had now" in (await world.words(story))[0]
    assert world.emulated.store.jobs == {}
    world.accounts.provider.away = False
    world.launcher.log.redeliver("hpc-launcher")
    await world.launcher.until(story, Listening)
    assert len(world.emulated.store.jobs) == 1


async def test_no_job_is_made_for_somebody_whom_delegation_would_not_reach(world: World) -> None:
    await world.accounts.sign_in()
    port = site_of(world.system, world.tokens.for_audience)
    try:
        with pytest.raises(PermanentError, match="takes your sign-in for CN=Ada, and") as refused:
            await port.create(described(), Owner("CN=Ada Byron", "ada1", "ztrain", UserName("ada")))
    finally:
        await port.close()
    assert refused.value.code == "another-identity"
    assert world.emulated.store.jobs == {}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("CN=Ada,O=Centre", "cn=ada, o=centre", True),
        ("CN=Ada", "CN=Ada,O=Centre", False),
        ("", "CN=Ada", False),
    ],
)
def test_distinguished_names_are_compared_as_sites_compare_them(one: str, other: str, same: bool) -> None:
    assert same_name(one, other) is same


async def test_an_answer_that_is_none_is_asked_for_again(tmp_path: Path) -> None:
    async def answer(_asker: str, _question: bytes) -> bytes:
        return b'{"answer": "perhaps"}'

    make_keys(tmp_path)
    rpc = MemoryRpc()
    await rpc.answer(Subjects().question("accounts", "access-token"), "accounts", answer)
    vault = Vault(MemoryBucket(), tmp_path, "hpc-launcher")
    tokens = AccountsTokens(rpc=rpc, subjects=Subjects(), vault=vault, service="hpc-launcher")
    with pytest.raises(TransientError, match="no answer about a token"):
        await tokens.token(UserName("ada"), "")
