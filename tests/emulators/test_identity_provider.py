"""The emulated identity provider keeps to OAuth 2.0 and OpenID Connect, seen from a client and a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet
from yarl import URL

from emulators.identity_provider.configuration import Lifetimes, load
from emulators.identity_provider.provider import IdentityProvider
from tests.support.identity_provider import CALLBACK, CLIENT_ID, CODE, HOME, Browser, identity_provider


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(clock: Clock) -> AsyncIterator[IdentityProvider]:
    lifetimes = Lifetimes(code_seconds=60, access_token_seconds=300, refresh_token_seconds=3600)
    async with identity_provider(lifetimes=lifetimes, now=clock) as provider:
        yield provider


@pytest.fixture
async def browser(provider: IdentityProvider) -> AsyncIterator[Browser]:
    browser = Browser(provider)
    yield browser
    await browser.close()


async def test_discovery_names_endpoints_that_answer(provider: IdentityProvider, browser: Browser) -> None:
    async with browser.http.get(f"{provider.issuer}/.well-known/openid-configuration") as answer:
        told = await answer.json()
    assert told["issuer"] == provider.issuer
    async with browser.http.get(told["jwks_uri"]) as answer:
        keys = (await answer.json())["keys"]
    assert [key["kty"] for key in keys] == ["RSA"]
    assert not {"d", "p", "q"} & set(keys[0]), "private halves stay private"
    for name in ("token_endpoint", "revocation_endpoint", "introspection_endpoint"):
        status, _ = await browser.call(URL(told[name]).path, secret="wrong", grant_type="refresh_token")
        assert status == 401, name


async def test_a_sign_in_ends_in_a_signed_id_token(provider: IdentityProvider, browser: Browser, clock: Clock) -> None:
    status, _, page = await browser.visit()
    assert (status, "Password" in page) == (200, True)
    tokens = await browser.tokens()
    token = jwt.decode(tokens["id_token"], provider.signer.key_set(), algorithms=["RS256"])
    assert token.claims["iss"] == provider.issuer
    assert token.claims["aud"] == CLIENT_ID
    assert token.claims["nonce"] == "some-nonce"
    assert (token.claims["acr"], token.claims["amr"]) == ("password", ["pwd"])
    assert token.claims["auth_time"] == clock.now
    async with browser.http.get(
        f"{provider.issuer}/userinfo", headers={"Authorization": f"Bearer {tokens['access_token']}"}
    ) as answer:
        userinfo = await answer.json()
    assert userinfo["sub"] == token.claims["sub"]
    assert (userinfo["preferred_username"], userinfo["entitlements"]) == ("ada", ["urn:x:y"])


async def test_a_browser_that_signed_in_is_not_asked_again_until_it_is_too_long_ago(
    browser: Browser, clock: Clock
) -> None:
    await browser.sign_in()
    status, back, _ = await browser.visit()
    assert (status, back["state"]) == (302, "some-state")
    assert (await browser.redeem(back["code"]))[0] == 200
    assert (await browser.visit(prompt="login"))[0] == 200
    clock.now += 100
    assert (await browser.visit(max_age="101"))[0] == 302
    assert (await browser.visit(max_age="99"))[0] == 200


async def test_without_a_sign_in_prompt_none_says_so(browser: Browser) -> None:
    status, back, _ = await browser.visit(prompt="none")
    assert (status, back["error"]) == (302, "login_required")


async def test_a_second_factor_is_asked_for_and_told(provider: IdentityProvider, browser: Browser) -> None:
    await browser.sign_in()
    status, _, page = await browser.visit(acr_values="mfa")
    assert (status, "One-time code" in page) == (200, True)
    assert (await browser.sign_in(acr_values="mfa"))[0] == 401
    assert (await browser.sign_in(acr_values="mfa", code="000000"))[0] == 401
    assert (await browser.sign_in("ben", acr_values="mfa", code=CODE))[0] == 401, "ben has none"
    tokens = await browser.tokens(acr_values="mfa", code=CODE)
    claims = jwt.decode(tokens["id_token"], provider.signer.key_set()).claims
    assert (claims["acr"], claims["amr"]) == ("mfa", ["pwd", "otp", "mfa"])
    assert (await browser.visit(acr_values="mfa"))[0] == 302


async def test_who_does_not_prove_it_gets_nothing(browser: Browser) -> None:
    assert (await browser.sign_in(password="wrong"))[0] == 401
    assert (await browser.sign_in("nobody"))[0] == 401
    status, back, _ = await browser.visit(redirect_uri="http://127.0.0.1:9/elsewhere")
    assert (status, back) == (400, {}), "nobody is sent to an address that is not registered"
    status, back, _ = await browser.visit(client_id="stranger")
    assert status in (400, 401)
    assert back == {}


async def test_a_code_holds_once_for_its_client_its_address_and_its_verifier(browser: Browser, clock: Clock) -> None:
    async def code() -> str:
        return (await browser.sign_in())[1]["code"]

    assert (await browser.redeem(await code(), code_verifier="x" * 50))[1]["error"] == "invalid_grant"
    assert (await browser.redeem(await code(), redirect_uri=CALLBACK + "2"))[1]["error"] == "invalid_grant"
    late = await code()
    clock.now += 61
    assert (await browser.redeem(late))[1]["error"] == "invalid_grant"
    once = await code()
    tokens = (await browser.redeem(once))[1]
    assert (await browser.redeem(once))[1]["error"] == "invalid_grant"
    assert (await browser.refresh(tokens["refresh_token"]))[0] == 400, "a code used twice ends what came of it"


async def test_a_refresh_token_rotates_and_its_reuse_ends_the_family(browser: Browser) -> None:
    first = await browser.tokens()
    status, second = await browser.refresh(first["refresh_token"])
    assert status == 200
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    assert (await browser.refresh(first["refresh_token"]))[1]["error"] == "invalid_grant"
    assert (await browser.refresh(second["refresh_token"]))[1]["error"] == "invalid_grant"
    assert (await browser.call("/introspect", token=second["access_token"]))[1] == {"active": False}


async def test_no_refresh_token_without_offline_access(browser: Browser) -> None:
    _, back = await browser.sign_in(scope="openid")
    status, tokens = await browser.redeem(back["code"])
    assert (status, "refresh_token" in tokens) == (200, False)


async def test_tokens_end_by_time_and_by_revocation(provider: IdentityProvider, browser: Browser, clock: Clock) -> None:
    tokens = await browser.tokens()
    told = (await browser.call("/introspect", token=tokens["access_token"]))[1]
    assert (told["active"], told["client_id"]) == (True, CLIENT_ID)
    clock.now += 301
    assert (await browser.call("/introspect", token=tokens["access_token"]))[1] == {"active": False}
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    async with browser.http.get(f"{provider.issuer}/userinfo", headers=headers) as answer:
        assert answer.status == 401
    assert (await browser.call("/revoke", token=tokens["refresh_token"]))[0] == 200
    assert (await browser.refresh(tokens["refresh_token"]))[1]["error"] == "invalid_grant"


async def test_end_session_ends_the_sign_in_of_the_browser_and_goes_where_it_may(
    provider: IdentityProvider, browser: Browser
) -> None:
    tokens = await browser.tokens()
    end = f"{provider.issuer}/end-session"
    assert (await browser.http.post(end, data={"post_logout_redirect_uri": HOME})).status == 400
    assert (await browser.visit())[0] == 302, "still signed in"
    form = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": HOME}
    async with browser.http.post(end, data=form, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, HOME)
    assert (await browser.visit())[0] == 200
    form["post_logout_redirect_uri"] = "http://evil.example.org/"
    async with browser.http.post(end, data=form, allow_redirects=False) as answer:
        assert (answer.status, "Location" in answer.headers) == (200, False)


async def test_a_key_that_was_rotated_out_is_published_until_the_next(
    provider: IdentityProvider, browser: Browser
) -> None:
    old = (await browser.tokens())["id_token"]
    provider.signer.rotate()
    keys = KeySet.import_key_set(provider.signer.published())  # type: ignore[arg-type]
    assert jwt.decode(old, keys).claims["preferred_username"] == "ada"
    assert jwt.decode((await browser.tokens())["id_token"], keys).claims["preferred_username"] == "ada"
    assert len(keys.keys) == 2


async def test_when_it_is_away_nothing_answers(provider: IdentityProvider, browser: Browser) -> None:
    provider.away = True
    assert (await browser.visit())[0] == 503
    provider.away = False
    assert (await browser.visit())[0] == 200


def test_a_configuration_that_is_wrong_is_named(tmp_path: object) -> None:
    file = tmp_path / "idp.toml"  # type: ignore[operator]
    file.write_text('port = "many"\n')
    with pytest.raises(ValueError, match=r"idp.toml: .*`int`.*port"):
        load(file)
