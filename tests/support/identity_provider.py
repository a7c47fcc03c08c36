"""The emulated identity provider in this process, and a browser's way through it. Omits only the look of its pages."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from time import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
from yarl import URL

from emulators.identity_provider.configuration import Client, Lifetimes, Person, ProviderConfiguration
from emulators.identity_provider.provider import IdentityProvider

CLIENT_ID = "farlab"
CLIENT_SECRET = "a-client-secret-for-tests"
CALLBACK = "http://127.0.0.1:8000/hub/oauth_callback"
HOME = "http://127.0.0.1:8000/"
PASSWORD = "a-password-for-tests"
CODE = "314159"
PEOPLE = [
    Person(
        name="ada",
        password=PASSWORD,
        second_factor=CODE,
        claims={"entitlements": ["urn:x:y"], "email": "ada@localhost"},
    ),
    Person(name="ben", password=PASSWORD),
]


@asynccontextmanager
async def identity_provider(
    callbacks: list[str] | None = None,
    homes: list[str] | None = None,
    people: list[Person] | None = None,
    lifetimes: Lifetimes | None = None,
    now: Callable[[], float] = time,
) -> AsyncIterator[IdentityProvider]:
    """A running provider with one client and, by default, ada and ben."""
    client = Client(
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        redirect_uris=callbacks or [CALLBACK],
        post_logout_redirect_uris=homes or [HOME],
    )
    configuration = ProviderConfiguration(
        clients=[client], people=PEOPLE if people is None else people, lifetimes=lifetimes or Lifetimes()
    )
    async with IdentityProvider(configuration, now) as provider:
        yield provider


class Browser:
    """A person's browser at the provider, and the client's calls behind it, step by step."""

    def __init__(self, provider: IdentityProvider) -> None:
        self.provider = provider
        self.http = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        self.verifier = secrets.token_urlsafe(48)

    async def close(self) -> None:
        await self.http.close()

    def address(self, **more: str) -> str:
        """Where the client sends the user to sign in."""
        challenge = base64.urlsafe_b64encode(sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": CLIENT_ID,
            "redirect_uri": CALLBACK,
            "scope": "openid profile offline_access",
            "state": "some-state",
            "nonce": "some-nonce",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **more,
        }
        return str(URL(f"{self.provider.issuer}/authorize").with_query(query))

    async def visit(self, **more: str) -> tuple[int, dict[str, str], str]:
        """Follows that address: the status, what the redirect carries, and the page."""
        async with self.http.get(self.address(**more), allow_redirects=False) as answer:
            return answer.status, carried(answer), await answer.text()

    async def sign_in(
        self, name: str = "ada", password: str = PASSWORD, code: str = "", **more: str
    ) -> tuple[int, dict[str, str]]:
        """Fills in the form."""
        form = {"username": name, "password": password, **({"code": code} if code else {})}
        async with self.http.post(self.address(**more), data=form, allow_redirects=False) as answer:
            return answer.status, carried(answer)

    async def call(
        self, path: str, secret: str = CLIENT_SECRET, client_id: str = CLIENT_ID, **form: str
    ) -> tuple[int, dict[str, Any]]:
        """A call of the client, with its secret."""
        headers = {"Authorization": aiohttp.encode_basic_auth(client_id, secret)}
        async with self.http.post(f"{self.provider.issuer}{path}", data=form, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def redeem(self, code: str, **more: str) -> tuple[int, dict[str, Any]]:
        """Turns a code into tokens."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK} | more
        return await self.call("/token", **{"code_verifier": self.verifier, **form})

    async def refresh(self, refresh_token: str) -> tuple[int, dict[str, Any]]:
        """Turns a refresh token into tokens."""
        return await self.call("/token", grant_type="refresh_token", refresh_token=refresh_token)

    async def tokens(self, name: str = "ada", **more: str) -> dict[str, Any]:
        """A whole sign-in: its tokens."""
        status, back = await self.sign_in(name, **more)
        assert status == 302, back
        status, tokens = await self.redeem(back["code"])
        assert status == 200, tokens
        return tokens


def carried(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The query of where an answer sends the browser."""
    query = parse_qs(urlsplit(answer.headers.get("Location", "")).query)
    return {name: values[0] for name, values in query.items()}
