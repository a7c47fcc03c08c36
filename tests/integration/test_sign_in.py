"""A real JupyterHub and an OpenID provider: who gets in and who does not, what accounts hear, and how users leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import msgspec
import pytest

from emulators.identity_provider.configuration import Client
from emulators.identity_provider.grants import RegisteredClient
from emulators.identity_provider.provider import IdentityProvider
from schemas.access import SignedIn, SignedOut, SignInEvent
from schemas.rpc import RenewSignIn, SignInRenewed
from schemas.secrets import SignInSecrets
from schemas.subjects import Subjects
from services._runtime.connection import Broker
from services._runtime.vault import Vault, write_secret_file
from services.operator_cli.probe import ProbeError
from services.operator_cli.web_sign_in import WebSignIn
from tests.services.hub_bridge.installation import Hub, installation
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, CODE, PASSWORD, identity_provider

pytestmark = pytest.mark.timeout(180)

SIGN_IN = """
[sign_in]
issuer = "{issuer}"
client_secret_file = "client.secret"
title = "The Institute"
refresh_seconds = 1
timeout_seconds = 5
"""
SUBJECTS = Subjects()


@asynccontextmanager
async def hub_with_provider(folder: Path) -> AsyncIterator[tuple[Hub, IdentityProvider, Broker]]:
    write_secret_file(folder / "client.secret", CLIENT_SECRET.encode())
    async with (
        identity_provider() as provider,
        installation(folder, ["ada", "ben"], SIGN_IN.format(issuer=provider.issuer)) as (hub, _, broker),
    ):
        client = Client(
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            redirect_uris=[f"{hub.url}hub/oauth_callback"],
            post_logout_redirect_uris=[hub.url],
        )
        provider.store.clients[CLIENT_ID] = RegisteredClient(client)
        yield hub, provider, broker


def browser() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))


async def sign_ins(broker: Broker) -> list[SignInEvent]:
    history = await broker.log.history("ACCESS", SUBJECTS.sign_ins())
    return [each.message for each in history if isinstance(each.message, SignInEvent)]


async def test_sign_ins_of_every_kind(tmp_path: Path) -> None:
    async with hub_with_provider(tmp_path) as (hub, provider, broker):
        provider.away = True
        await hub.start()
        await _nobody_signs_in_while_the_provider_is_away(hub, provider)
        await _a_sign_in_reaches_accounts_and_ends(tmp_path, hub, broker)
        await _a_sign_in_is_renewed_until_the_provider_says_it_is_over(hub, broker)
        await _a_better_sign_in_is_asked_for_and_told(hub, provider, broker)
        await _a_sign_in_of_another_browser_is_refused(hub)
        await _no_unsound_token_lets_anybody_in(hub, provider, broker)
        await _without_the_log_nobody_is_half_signed_in(hub, broker)
        assert "Traceback" not in hub.log_text()
        for secret in (CLIENT_SECRET, PASSWORD):
            assert secret not in hub.log_text()


async def _nobody_signs_in_while_the_provider_is_away(hub: Hub, provider: IdentityProvider) -> None:
    async with browser() as http, http.get(f"{hub.url}hub/oauth_login") as page:
        assert page.status == 503
        assert "The Institute does not answer" in await page.text()
    provider.away = False


async def _a_sign_in_reaches_accounts_and_ends(folder: Path, hub: Hub, broker: Broker) -> None:
    async with browser() as http:
        way = WebSignIn(hub.url, http)
        await way.enter("ada", PASSWORD)
        [event] = await sign_ins(broker)
        assert isinstance(event, SignedIn)
        assert (event.user, event.hub, event.level, event.methods) == ("ada", "main", "password", ["pwd"])
        assert event.authenticated_at is not None
        vault = Vault(broker.vault, folder / "keys", "accounts")
        secrets = await vault.open(event.sign_in, SignInSecrets)
        assert secrets.claims["entitlements"] == ["urn:x:y"]
        assert secrets.claims["iss"] != ""
        assert secrets.subject == "sub-of-ada"
        for place in (hub.log_text().encode(), msgspec.json.encode(event), *_files(folder / "hub")):
            assert secrets.refresh_token.encode() not in place
            assert b"ada@localhost" not in place
        await way.leave()
        assert isinstance((await sign_ins(broker))[-1], SignedOut)
        assert f"{event.sign_in}.hub-bridge" not in await vault.names()
        async with http.get(f"{hub.url}hub/home") as page:
            assert "login" in str(page.url)


def _files(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.rglob("*") if file.is_file()]


async def _a_sign_in_is_renewed_until_the_provider_says_it_is_over(hub: Hub, broker: Broker) -> None:
    asked: list[RenewSignIn] = []
    answers = {"outcome": "kept"}

    async def answer(asker: str, question: bytes) -> bytes:
        assert asker == "hub-bridge"
        asked.append(msgspec.json.decode(question, type=RenewSignIn))
        return msgspec.json.encode(SignInRenewed(outcome=answers["outcome"], reason="locked out"))  # type: ignore[arg-type]

    async with browser() as http:
        await WebSignIn(hub.url, http).enter("ada", PASSWORD)
        await _until(hub, http, signed_in=True, rounds=2)  # nobody answers for accounts: nobody is thrown out
        answering = await broker.rpc.answer(SUBJECTS.question("accounts", "renew-sign-in"), "accounts", answer)
        async with asyncio.timeout(20):
            while len(asked) < 2:
                assert await _is_in(hub, http)
        answers["outcome"] = "over"
        await _until(hub, http, signed_in=False, rounds=1)
        await answering.close()
        assert {(each.user, each.sign_in) for each in asked} == {("ada", (await sign_ins(broker))[-1].sign_in)}


async def _until(hub: Hub, http: aiohttp.ClientSession, *, signed_in: bool, rounds: int) -> None:
    async with asyncio.timeout(20):
        while rounds:
            rounds -= await _is_in(hub, http) is signed_in


async def _is_in(hub: Hub, http: aiohttp.ClientSession) -> bool:
    async with http.get(f"{hub.url}hub/home") as page:
        return page.url.path == "/hub/home"


async def _a_better_sign_in_is_asked_for_and_told(hub: Hub, provider: IdentityProvider, broker: Broker) -> None:
    async with browser() as http:
        way = WebSignIn(hub.url, http)
        await way.enter("ada", PASSWORD)
        await way.enter("ada", PASSWORD, CODE, "?acr_values=mfa&max_age=300&next=%2Fhub%2Fhome")
        last = (await sign_ins(broker))[-1]
        assert isinstance(last, SignedIn)
        assert (last.level, last.methods) == ("mfa", ["pwd", "otp", "mfa"])
        asked = provider.requests["/authorize"]
        async with http.get(f"{hub.url}hub/oauth_login?max_age=300") as page:
            assert page.status == 200, "recent enough: nothing to fill in"
        assert provider.requests["/authorize"] == asked + 1
        for wrong in ("acr_values=a%22b", "max_age=-1", "max_age=soon", f"acr_values={'x' * 600}"):
            async with http.get(f"{hub.url}hub/oauth_login?{wrong}") as page:
                assert page.status == 400, wrong


async def _a_sign_in_of_another_browser_is_refused(hub: Hub) -> None:
    async with browser() as mine, browser() as theirs:
        async with theirs.get(f"{hub.url}hub/oauth_login", allow_redirects=False) as answer:
            state = parse_qs(urlsplit(answer.headers["Location"]).query)["state"][0]
        callback = f"{hub.url}hub/oauth_callback?code=theirs&state={state}"
        async with mine.get(callback) as page:
            assert page.status == 400
            assert "begun in another browser" in await page.text()
        async with theirs.get(callback) as page:
            assert page.status == 403
            assert "refused the sign-in" in await page.text()


async def _no_unsound_token_lets_anybody_in(hub: Hub, provider: IdentityProvider, broker: Broker) -> None:
    before = len(await sign_ins(broker))
    reasons = {
        "unsigned": "not signed",
        "forged": "not signed",
        "confused": "not signed",
        "expired": "has expired",
        "of-tomorrow": "time to come",
        "of-another-issuer": "another provider",
        "for-another": "another client",
        "of-another-act": "another sign-in",
    }
    for unsound, reason in reasons.items():
        provider.signer.unsound = unsound  # type: ignore[assignment]
        async with browser() as http:
            with pytest.raises(ProbeError, match="could not sign in: 403"):
                await WebSignIn(hub.url, http).enter("ben", PASSWORD)
            assert not await _is_in(hub, http)
        assert reason in hub.log_text(), unsound
    provider.signer.unsound = ""
    assert len(await sign_ins(broker)) == before
    async with browser() as http:
        await WebSignIn(hub.url, http).enter("ben", PASSWORD)
        provider.signer.rotate()
        await WebSignIn(hub.url, http).enter("ben", PASSWORD, query="?again=1")


async def _without_the_log_nobody_is_half_signed_in(hub: Hub, broker: Broker) -> None:
    before = len(await sign_ins(broker))
    hub.broker_process.stop()
    async with browser() as http:
        with pytest.raises(ProbeError, match="could not sign in: 503"):
            await WebSignIn(hub.url, http).enter("ben", PASSWORD)
        assert not await _is_in(hub, http)
    await hub.broker_process.start()
    async with asyncio.timeout(20):
        while len(await _eventually(broker)) != before:
            await asyncio.sleep(0.1)


async def _eventually(broker: Broker) -> list[SignInEvent]:
    async with asyncio.timeout(20):
        while True:
            try:
                return await sign_ins(broker)
            except Exception as error:
                assert type(error).__name__ == "TransientError", json.dumps(str(error))
                await asyncio.sleep(0.1)
