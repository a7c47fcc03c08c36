"""Sign-ins at accounts, against the emulated provider: taken, renewed, made into tokens, ended; and all that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from emulators.identity_provider.configuration import Lifetimes
from emulators.identity_provider.provider import IdentityProvider
from schemas.access import SignedIn, SignedOut, SignInEvent
from schemas.base import SignInId, UserName
from schemas.rpc import (
    AccessToken,
    AccessTokenAnswer,
    AccessTokenSealed,
    AccessTokenWanted,
    NoAccessToken,
    RenewSignIn,
    SignInRenewed,
)
from schemas.secrets import SignInSecrets
from schemas.subjects import Subjects
from services._runtime.errors import PermanentError
from services._runtime.memory import MemoryBucket, MemoryLog
from services._runtime.openid import SignInSettings
from services._runtime.rpc import MemoryRpc
from services._runtime.vault import Vault, make_keys, write_secret_file
from services.accounts.identity_provider import OpenIdConnect
from services.accounts.sign_ins import SignInDesk
from services.accounts.tokens import TokenKeeper
from tests.support.identity_provider import CLIENT_SECRET, CODE, Browser, identity_provider
from tests.support.samples import HUB, new_session, stamp

SUBJECTS = Subjects()
ADA, BEN = UserName("ada"), UserName("ben")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()

    def tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Learned:
    """Stands for who works out rights. Omits the working out."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Mapping[str, object], str]] = []

    async def learn(self, user: UserName, claims: Mapping[str, object], reason: str) -> None:
        self.told.append((user, claims, reason))


class Stage:
    """Accounts' sign-ins, one provider, one log."""

    def __init__(self, folder: Path, provider: IdentityProvider, clock: Clock) -> None:
        make_keys(folder)
        write_secret_file(folder / "client.secret", CLIENT_SECRET.encode())
        self.folder = folder
        self.provider = provider
        self.clock = clock
        self.browser = Browser(provider)
        self.log, self.rpc = MemoryLog(), MemoryRpc()
        self.bucket, self.leases, self.vaulted = MemoryBucket(), MemoryBucket(), MemoryBucket()
        self.learned = Learned()
        self.hub = Vault(self.vaulted, folder, "hub-bridge")

    def keeper(self, replica: str = "one") -> TokenKeeper:
        return TokenKeeper(
            bucket=self.bucket,
            leases=self.leases,
            vault=Vault(self.vaulted, self.folder, "accounts"),
            provider=self.connect(),
            replica=replica,
            now=self.clock,
        )

    def connect(self) -> OpenIdConnect:
        settings = SignInSettings(
            issuer=self.provider.issuer, client_secret_file="client.secret", timeout_seconds=5, clock_skew_seconds=30
        )
        return OpenIdConnect(settings, self.folder, self.clock)

    def desk(self, *, revoke: bool = True, keeper: TokenKeeper | None = None) -> SignInDesk:
        return SignInDesk(
            log=self.log,
            rpc=self.rpc,
            subjects=SUBJECTS,
            vault=Vault(self.vaulted, self.folder, "accounts"),
            tokens=keeper or self.keeper(),
            provider=self.connect(),
            learns=self.learned,
            revoke_at_sign_out=revoke,
            now=self.clock,
        )

    async def say(self, event: SignInEvent) -> None:
        scope = SUBJECTS.sign_in(event.user, event.sign_in)
        history = await self.log.history("ACCESS", scope)
        after = history[-1].sequence if history else 0
        stamped = stamp("hub")(event, after=after, cause=None)
        await self.log.append("ACCESS", SUBJECTS.sign_in_event(stamped), stamped, scope=scope, after=after)

    async def sign_in(self, user: UserName = ADA, *, refresh_token: str | None = None, **asked: str) -> SignInId:
        """What the hub does at a sign-in."""
        tokens = await self.browser.tokens(user, **asked)
        sign_in = SignInId(new_session())
        given = tokens["refresh_token"] if refresh_token is None else refresh_token
        secrets = SignInSecrets(
            user=user, subject=f"sub-of-{user}", claims={"sub": f"sub-of-{user}"}, refresh_token=given
        )
        await self.hub.put(sign_in, "accounts", secrets)
        level = "mfa" if asked.get("acr_values") else "password"
        await self.say(SignedIn(user=user, hub=HUB, sign_in=sign_in, level=level, authenticated_at=self.clock()))
        await self.log.settled()
        return sign_in

    async def renew(self, sign_in: SignInId, user: UserName = ADA) -> SignInRenewed:
        question = msgspec.json.encode(RenewSignIn(user=user, sign_in=sign_in))
        subject = SUBJECTS.question("accounts", "renew-sign-in")
        answer = await self.rpc.ask(subject, "hub-bridge", question, timeout_seconds=10)
        return msgspec.json.decode(answer, type=SignInRenewed)

    async def token(self, user: UserName = ADA, asker: str = "hpc-launcher") -> AccessTokenSealed | NoAccessToken:
        question = msgspec.json.encode(AccessTokenWanted(user=user))
        subject = SUBJECTS.question("accounts", "access-token")
        answer = await self.rpc.ask(subject, asker, question, timeout_seconds=10)
        return msgspec.json.decode(answer, type=AccessTokenAnswer)  # type: ignore[arg-type, return-value]

    async def opened(self, answer: AccessTokenSealed | NoAccessToken, asker: str = "hpc-launcher") -> AccessToken:
        assert isinstance(answer, AccessTokenSealed), answer
        return Vault(self.vaulted, self.folder, asker).unseal(answer.sealed, AccessToken)

    def refreshes(self) -> int:
        return self.provider.requests.get("/token", 0)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    clock = Clock()
    lifetimes = Lifetimes(access_token_seconds=300, refresh_token_seconds=86_400)
    async with identity_provider(lifetimes=lifetimes, now=clock.seconds) as provider:
        stage = Stage(tmp_path, provider, clock)
        yield stage
        await stage.browser.close()


@pytest.fixture
async def desk(stage: Stage) -> AsyncIterator[SignInDesk]:
    desk = stage.desk()
    await desk.start()
    yield desk
    await desk.close()


async def test_a_sign_in_is_taken_once_sealed_at_rest_and_learned_from(stage: Stage, desk: SignInDesk) -> None:
    sign_in = await stage.sign_in()
    assert [(user, reason) for user, _, reason in stage.learned.told] == [("ada", "signed in")]
    assert await stage.vaulted.keys() == []
    entry = await stage.bucket.get("ada")
    assert entry is not None
    [held] = await stage.keeper().held(ADA)
    assert held.sign_in == sign_in
    assert held.refresh_token.encode() not in entry[0]
    with pytest.raises(PermanentError):
        stage.hub.unseal(entry[0], dict[str, Any])
    for recorded in await stage.log.history("ACCESS", SUBJECTS.sign_ins()):
        assert held.refresh_token not in msgspec.json.encode(recorded.message).decode()


async def test_a_hundred_who_ask_at_once_cost_one_refresh(stage: Stage, desk: SignInDesk) -> None:
    await stage.sign_in()
    before = stage.refreshes()
    answers = await asyncio.gather(*[stage.token() for _ in range(100)])
    assert len({(await stage.opened(answer)).value for answer in answers}) == 1
    assert stage.refreshes() == before + 1


async def test_an_access_token_is_for_who_asked_alone_and_works(stage: Stage, desk: SignInDesk) -> None:
    await stage.sign_in()
    answer = await stage.token()
    token = await stage.opened(answer)
    headers = {"Authorization": f"Bearer {token.value}"}
    async with stage.browser.http.get(f"{stage.provider.issuer}/userinfo", headers=headers) as userinfo:
        assert (await userinfo.json())["preferred_username"] == "ada"
    assert token.expires_at == stage.clock() + timedelta(seconds=300)
    with pytest.raises(PermanentError):
        await stage.opened(answer, "tunneler")
    assert token.value not in str(answer)


async def test_a_token_is_used_for_half_its_life_and_rotation_goes_on_for_days_and_over_restarts(
    stage: Stage, desk: SignInDesk
) -> None:
    await stage.sign_in()
    first = await stage.opened(await stage.token())
    stage.clock.tick(140)
    assert (await stage.opened(await stage.token())).value == first.value
    stage.clock.tick(20)
    seen = {first.value, (await stage.opened(await stage.token())).value}
    assert len(seen) == 2
    for _ in range(5):
        stage.clock.tick(20 * 3600)
        restarted = stage.keeper()
        [held] = await restarted.held(ADA)
        seen.add((await restarted.fresh(ADA, held.sign_in)).access_token)
    assert len(seen) == 7


async def test_two_replicas_never_spend_one_refresh_token_twice(stage: Stage) -> None:
    first, second = stage.keeper("one"), stage.keeper("two")
    desk = stage.desk(keeper=first)
    await desk.start()
    sign_in = await stage.sign_in()
    for _ in range(5):
        fresh = await asyncio.gather(
            first.fresh(ADA, sign_in, anew=True),
            second.fresh(ADA, sign_in, anew=True),
            first.fresh(ADA, sign_in, "https://other.example.org"),
        )
        assert len({each.access_token for each in fresh}) == 3
    await desk.close()


async def test_renewal_learns_what_changed_and_notices_the_end(stage: Stage, desk: SignInDesk) -> None:
    sign_in = await stage.sign_in()
    person = stage.provider.people["ada"]
    stage.provider.people["ada"] = msgspec.structs.replace(person, claims={"entitlements": ["urn:new"]})
    assert (await stage.renew(sign_in)).outcome == "renewed"
    user, claims, reason = stage.learned.told[-1]
    assert (user, claims["entitlements"], reason) == ("ada", ["urn:new"], "sign-in renewed")
    [held] = await stage.keeper().held(ADA)
    await stage.browser.call("/revoke", token=held.refresh_token)
    assert (await stage.renew(sign_in)).outcome == "over"
    assert await stage.keeper().held(ADA) == []
    assert (await stage.renew(sign_in)).outcome == "over"
    answer = await stage.token()
    assert isinstance(answer, NoAccessToken)
    assert (answer.code, answer.retry) == ("sign-in-again", False)


async def test_while_the_provider_is_away_nothing_is_lost(stage: Stage, desk: SignInDesk) -> None:
    sign_in = await stage.sign_in()
    await stage.token()
    stage.provider.away = True
    stage.clock.tick(3600)
    assert (await stage.renew(sign_in)).outcome == "kept"
    answer = await stage.token()
    assert isinstance(answer, NoAccessToken)
    assert (answer.code, answer.retry) == ("provider-away", True)
    stage.provider.away = False
    assert (await stage.renew(sign_in)).outcome == "renewed"
    await stage.opened(await stage.token())


@pytest.mark.parametrize("unsound", ["unsigned", "forged", "confused", "expired", "of-another-issuer", "for-another"])
async def test_an_unsound_id_token_at_a_refresh_teaches_nothing(stage: Stage, desk: SignInDesk, unsound: str) -> None:
    sign_in = await stage.sign_in()
    told = len(stage.learned.told)
    stage.provider.signer.unsound = unsound  # type: ignore[assignment]
    renewed = await stage.renew(sign_in)
    assert renewed.outcome == "kept"
    assert renewed.reason != ""
    assert len(stage.learned.told) == told
    stage.provider.signer.unsound = ""
    stage.clock.tick(200)
    assert (await stage.renew(sign_in)).outcome == "renewed"


@pytest.mark.parametrize("revoke", [True, False])
async def test_a_sign_out_revokes_by_policy_and_ends_one_sign_in_only(stage: Stage, revoke: bool) -> None:
    desk = stage.desk(revoke=revoke)
    await desk.start()
    here, there = await stage.sign_in(), await stage.sign_in()
    kept = {held.sign_in: held.refresh_token for held in await stage.keeper().held(ADA)}
    await stage.say(SignedOut(user=ADA, hub=HUB, sign_in=here))
    await stage.log.settled()
    assert [held.sign_in for held in await stage.keeper().held(ADA)] == [there]
    assert (await stage.browser.refresh(kept[here]))[0] == (400 if revoke else 200)
    assert (await stage.renew(here)).outcome == "over"
    await stage.opened(await stage.token())
    await desk.close()


async def test_a_sign_out_while_the_provider_is_away_is_told_later(stage: Stage, desk: SignInDesk) -> None:
    sign_in = await stage.sign_in()
    [held] = await stage.keeper().held(ADA)
    stage.provider.away = True
    await stage.say(SignedOut(user=ADA, hub=HUB, sign_in=sign_in))
    await stage.log.settled()
    assert len(await stage.keeper().held(ADA)) == 1
    stage.provider.away = False
    stage.log.redeliver("accounts", "ACCESS")
    await stage.log.settled()
    assert await stage.keeper().held(ADA) == []
    assert (await stage.browser.refresh(held.refresh_token))[0] == 400


async def test_without_a_refresh_token_a_sign_in_is_kept_and_gives_no_access_token(
    stage: Stage, desk: SignInDesk
) -> None:
    sign_in = await stage.sign_in(refresh_token="")
    assert (await stage.renew(sign_in)).outcome == "kept"
    assert isinstance(await stage.token(), NoAccessToken)


async def test_what_another_user_brought_is_not_taken(stage: Stage, desk: SignInDesk) -> None:
    sign_in = SignInId(new_session())
    await stage.hub.put(
        sign_in, "accounts", SignInSecrets(user="ben", subject="b", claims={"sub": "b"}, refresh_token="r")
    )
    await stage.say(SignedIn(user=ADA, hub=HUB, sign_in=sign_in))
    await stage.log.settled()
    assert stage.learned.told == []
    assert await stage.keeper().held(ADA) == []


async def test_a_sign_in_of_another_user_is_nobodys(stage: Stage, desk: SignInDesk) -> None:
    sign_in = await stage.sign_in(BEN)
    assert (await stage.renew(sign_in, ADA)).outcome == "over"
    assert isinstance(await stage.token(ADA), NoAccessToken)
    assert await desk.authentication(ADA, sign_in) is None


async def test_how_somebody_signed_in_is_known_from_the_log_until_they_sign_out(stage: Stage, desk: SignInDesk) -> None:
    plain = await stage.sign_in()
    strong = await stage.sign_in(acr_values="mfa", code=CODE)
    again = stage.desk()
    found = await again.authentication(ADA, strong)
    assert found is not None
    assert (found.level, found.at) == ("mfa", stage.clock())
    weak = await again.authentication(ADA, plain)
    assert weak is not None
    assert weak.level == "password"
    assert await again.authentication(ADA, None) is None
    assert await again.authentication(ADA, SignInId(new_session())) is None
    await stage.say(SignedOut(user=ADA, hub=HUB, sign_in=strong))
    assert await again.authentication(ADA, strong) is None


async def test_only_the_newest_sign_ins_of_a_user_are_kept(stage: Stage, desk: SignInDesk) -> None:
    made = [await stage.sign_in() for _ in range(10)]
    assert [held.sign_in for held in await stage.keeper().held(ADA)] == made[:1:-1]


async def test_a_crash_before_the_acknowledgement_takes_a_sign_in_again_and_changes_nothing(
    stage: Stage, desk: SignInDesk
) -> None:
    sign_in = await stage.sign_in()
    await stage.token()
    [held] = await stage.keeper().held(ADA)
    await stage.hub.put(
        sign_in,
        "accounts",
        SignInSecrets(user="ada", subject="sub-of-ada", claims={"sub": "sub-of-ada"}, refresh_token="the first, spent"),
    )
    await desk.take(SignedIn(user=ADA, hub=HUB, sign_in=sign_in))
    assert [each.refresh_token for each in await stage.keeper().held(ADA)] == [held.refresh_token]
