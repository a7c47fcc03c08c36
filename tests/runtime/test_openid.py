"""Which ID tokens are believed: one that is right in everything, and none that is wrong in anything."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from emulators.identity_provider.provider import IdentityProvider
from emulators.identity_provider.signing import confused
from services._runtime.configuration import ConfigurationError
from services._runtime.openid import IdTokens, SignInSettings, UnknownKeyError, UntrustedError, key_set
from services._runtime.openid_provider import OpenIdProvider, ProviderAwayError
from services._runtime.settings import load
from tests.support.identity_provider import Browser, identity_provider

NOW = 1_800_000_000
KEY = RSAKey.generate_key(2048, {"kid": "one"})
OTHER = RSAKey.generate_key(2048, {"kid": "one"})
KEYS = KeySet([RSAKey.import_key(KEY.as_dict(private=False))])
SETTINGS = SignInSettings(issuer="https://login.example.org", client_id="farlab", clock_skew_seconds=30)
CLAIMS: dict[str, Any] = {
    "iss": "https://login.example.org",
    "aud": "farlab",
    "sub": "248289761001",
    "iat": NOW,
    "exp": NOW + 300,
    "nonce": "n",
    "acr": "mfa",
    "amr": ["pwd", "otp"],
    "auth_time": NOW - 5,
}
UNSET = object()


def token(key: Any = KEY, algorithm: str = "RS256", header: dict[str, Any] | None = None, **changed: Any) -> str:
    claims = {name: value for name, value in (CLAIMS | changed).items() if value is not UNSET}
    return jwt.encode({"alg": algorithm, "kid": "one", **(header or {})}, claims, key, algorithms=[algorithm])


def read(given: str, nonce: str | None = "n", subject: str | None = None, now: int = NOW) -> Any:
    return IdTokens(SETTINGS).claims(given, KEYS, now=now, nonce=nonce, subject=subject)


def test_a_token_that_is_right_is_believed() -> None:
    claims = read(token())
    assert (claims.sub, claims.acr, claims.amr, claims.auth_time) == ("248289761001", "mfa", ["pwd", "otp"], NOW - 5)
    assert claims.every == CLAIMS
    assert read(token(aud=["farlab"], azp="farlab")).sub == claims.sub
    assert read(token(aud=["farlab", "other"], azp="farlab")).sub == claims.sub
    assert read(token(nonce=UNSET), nonce=None, subject="248289761001").sub == claims.sub
    assert read(token(acr=UNSET, amr=UNSET, auth_time=UNSET)).amr == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"iss": "https://login.example.org/"}, "another provider issued it"),
        ({"iss": UNSET}, "does not say"),
        ({"aud": "other"}, "meant for another client"),
        ({"aud": ["other"]}, "meant for another client"),
        ({"aud": []}, "meant for another client"),
        ({"aud": UNSET}, "does not say"),
        ({"aud": ["farlab", "other"]}, "does not say"),
        ({"aud": ["farlab", "other"], "azp": "other"}, "issued to another client"),
        ({"azp": "other"}, "issued to another client"),
        ({"nonce": "m"}, "another sign-in"),
        ({"nonce": ["n", "m"]}, ""),
        ({"nonce": UNSET}, "does not say"),
        ({"exp": NOW - 31}, "has expired"),
        ({"exp": UNSET}, "does not say"),
        ({"exp": "never"}, ""),
        ({"iat": NOW + 31}, "of a time to come"),
        ({"iat": UNSET}, "does not say"),
        ({"nbf": NOW + 31}, "does not hold yet"),
        ({"sub": UNSET}, "does not say"),
        ({"sub": ""}, ""),
        ({"sub": 7}, ""),
        ({"amr": "otp"}, ""),
        ({"auth_time": "yesterday"}, ""),
    ],
)
def test_one_that_says_something_wrong_is_refused_with_the_reason(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(UntrustedError) as refused:
        read(token(**changed))
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_person_than_expected_is_refused() -> None:
    with pytest.raises(UntrustedError, match="another person"):
        read(token(), subject="somebody")


@pytest.mark.parametrize("offset", [-30, 30])
def test_clocks_may_differ_by_what_is_stated_and_no_more(offset: int) -> None:
    assert read(token(iat=NOW, exp=NOW + 1), now=NOW + (offset if offset < 0 else 29)).sub
    with pytest.raises(UntrustedError, match="clocks differ by more than 30 s"):
        read(token(iat=NOW, exp=NOW + 1), now=NOW + (offset - 1 if offset < 0 else offset + 1))


def test_a_signature_must_be_there_be_the_providers_and_of_an_algorithm_that_is_allowed() -> None:
    unsigned = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "none", "kid": "one"}, CLAIMS)
    )
    for wrong in (
        unsigned + ".",
        token(OTHER),
        confused(CLAIMS, KEY),
        token(KEY, "RS512"),
        token(ECKey.generate_key("P-256"), "ES256"),
        token()[:-6] + "AAAAAA",
        "x.y.z",
        "",
        "not a token",
    ):
        with pytest.raises(UntrustedError):
            read(wrong)


def test_a_key_nobody_published_is_told_apart_because_keys_rotate() -> None:
    with pytest.raises(UnknownKeyError):
        read(token(header={"kid": "two"}))


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda each: each.decode("latin-1")))
def test_no_text_is_believed_or_breaks_anything(text: str) -> None:
    with pytest.raises(UntrustedError):
        read(text)


@given(st.dictionaries(st.sampled_from(sorted(CLAIMS)), st.none() | st.integers() | st.text() | st.lists(st.text())))
def test_whatever_a_signed_token_says_it_is_judged(changed: dict[str, Any]) -> None:
    try:
        claims = read(token(**changed))
    except UntrustedError:
        return
    assert claims.every["iss"] == SETTINGS.issuer
    assert claims.every["nonce"] == "n"


def test_keys_that_cannot_sign_for_a_provider_are_left_out() -> None:
    published = {
        "keys": [
            {"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric"},
            {"kty": "of-tomorrow", "kid": "unknown"},
            {**KEY.as_dict(private=False), "use": "enc", "kid": "for encryption"},
            "nonsense",
            {"kty": "RSA", "n": "!", "e": "AQAB"},
            OKPKey.generate_key("Ed25519", {"kid": "ed"}).as_dict(private=False),
            KEY.as_dict(private=False),
        ]
    }
    assert [key.kid for key in key_set(published).keys] == ["ed", "one"]


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    async with identity_provider() as provider:
        yield provider


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_rotated_keys_are_found_and_a_flood_of_strange_keys_asks_seldom(
    provider: IdentityProvider, tmp_path: Path
) -> None:
    browser = Browser(provider)
    settings = SignInSettings(issuer=provider.issuer)
    clock = Clock()
    first = (await browser.tokens())["id_token"]
    clock.now = float(jwt.decode(first, provider.signer.key_set()).claims["iat"])
    asked = OpenIdProvider(settings, tmp_path, clock)
    assert (await asked.claims(first, nonce="some-nonce")).every["preferred_username"] == "ada"
    provider.signer.rotate()
    second = (await browser.tokens())["id_token"]
    assert (await asked.claims(second, nonce="some-nonce")).sub == "sub-of-ada"
    assert provider.requests["/jwks"] == 2
    stranger = token(header={"kid": "stranger"})
    for _ in range(20):
        with pytest.raises(UntrustedError):
            await asked.claims(stranger, nonce=None)
    assert provider.requests["/jwks"] == 2
    await browser.close()


async def test_what_was_known_is_used_while_the_provider_is_away(provider: IdentityProvider, tmp_path: Path) -> None:
    clock = Clock()
    asked = OpenIdProvider(SignInSettings(issuer=provider.issuer), tmp_path, clock)
    provider.away = True
    with pytest.raises(ProviderAwayError, match="answered 503"):
        await asked.metadata()
    provider.away = False
    known = await asked.metadata()
    provider.away = True
    clock.now += 4000
    assert await asked.metadata() == known


async def test_a_provider_of_another_name_is_not_the_one(provider: IdentityProvider, tmp_path: Path) -> None:
    issuer = provider.issuer.replace("127.0.0.1", "localhost")
    with pytest.raises(ProviderAwayError, match=r"calls itself .*set sign_in.issuer to that"):
        await OpenIdProvider(SignInSettings(issuer=issuer), tmp_path).metadata()


async def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ProviderAwayError, match="does not answer"):
        await OpenIdProvider(SignInSettings(issuer="http://127.0.0.1:9"), tmp_path).metadata()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('issuer = "login.example.org"', "sign_in.issuer = 'login.example.org'"),
        ('algorithms = ["HS256"]', "sign_in.algorithms"),
        ('algorithms = ["none"]', "sign_in.algorithms"),
        ("clock_skew_seconds = 3600", "sign_in.clock_skew_seconds = 3600"),
        ('isuer = "https://x"', 'did you mean "issuer"?'),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path: Path, setting: str, said: str) -> None:
    (tmp_path / "farlab.toml").write_text(f"[sign_in]\n{setting}\n")
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path / "farlab.toml")
    assert said in str(refused.value)
