"""Asks an OpenID provider what it publishes, its metadata and keys, and keeps the answers. Sends no secret there."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from joserfc.jwk import KeySet

from services._runtime.configuration import ConfigurationError
from services._runtime.errors import TransientError
from services._runtime.openid import Claims, IdTokens, ProviderMetadata, SignInSettings, UnknownKeyError, key_set

KEPT_SECONDS = 3_600.0
"""How long metadata and keys are believed without asking again."""
KEYS_AGAIN_SECONDS = 10.0
"""How often a token with an unknown key may make us read the keys again: anybody can write such a token."""
LONGEST_ANSWER_BYTES = 1024 * 1024


class ProviderAwayError(TransientError):
    """The provider does not answer, or answers nonsense: nothing is known, and nothing is lost."""


class OpenIdProvider:
    """One provider, as far as anybody may ask it."""

    def __init__(self, settings: SignInSettings, folder: Path, clock: Callable[[], float] = time.time) -> None:
        """`folder` is what file names in the settings count from. Raises ConfigurationError for a bad `ca_file`."""
        self.settings = settings
        self._tls = tls(settings, folder)
        self._clock = clock
        self._id_tokens = IdTokens(settings)
        self._metadata: tuple[ProviderMetadata, float] | None = None
        self._keys: tuple[KeySet, float] | None = None
        self._again = float("-inf")
        self._asking = asyncio.Lock()

    async def metadata(self) -> ProviderMetadata:
        """Its endpoints. Raises ProviderAwayError; what was known an hour ago is used while it is away."""
        async with self._asking:
            if self._metadata is None or self._clock() - self._metadata[1] > KEPT_SECONDS:
                try:
                    self._metadata = await self._discovered(), self._clock()
                except ProviderAwayError:
                    if self._metadata is None:
                        raise
            return self._metadata[0]

    async def check(self) -> None:
        """Asks for its metadata and keys. Raises ProviderAwayError where either cannot be had or used."""
        await self._published(0.0)

    async def claims(self, token: str, *, nonce: str | None, subject: str | None = None) -> Claims:
        """What an ID token says, once it is checked. Raises UntrustedError or ProviderAwayError."""
        keys = await self._published(KEPT_SECONDS)
        now = int(self._clock())
        try:
            return self._id_tokens.claims(token, keys, now=now, nonce=nonce, subject=subject)
        except UnknownKeyError:
            if self._clock() - self._again < KEYS_AGAIN_SECONDS:
                raise
            self._again = self._clock()
            keys = await self._published(0.0)
            return self._id_tokens.claims(token, keys, now=now, nonce=nonce, subject=subject)

    async def _published(self, not_older_seconds: float) -> KeySet:
        metadata = await self.metadata()
        async with self._asking:
            if self._keys is None or self._clock() - self._keys[1] >= not_older_seconds:
                keys = key_set(await self._get(metadata.jwks_uri))
                if not keys.keys:
                    raise ProviderAwayError("the identity provider publishes no key that its tokens may be signed with")
                self._keys = keys, self._clock()
            return self._keys[0]

    async def _discovered(self) -> ProviderMetadata:
        issuer = self.settings.issuer
        told = await self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            metadata = msgspec.convert(told, ProviderMetadata)
        except msgspec.ValidationError as error:
            raise ProviderAwayError(f"the identity provider's metadata cannot be used: {error}") from None
        if metadata.issuer != issuer:
            raise ProviderAwayError(
                f"the identity provider calls itself {metadata.issuer!r} and not {issuer!r}; set sign_in.issuer to that"
            )
        ends = (metadata.token_endpoint, metadata.jwks_uri, metadata.userinfo_endpoint, metadata.revocation_endpoint)
        if issuer.startswith("https:") and any(each and urlsplit(each).scheme != "https" for each in ends):
            raise ProviderAwayError("the identity provider names endpoints without TLS; secrets are not sent there")
        return metadata

    async def _get(self, url: str) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=self.settings.timeout_seconds)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=True, connector=_connector()) as http,
                http.get(url, ssl=self._tls, headers={"Accept": "application/json"}) as answer,
            ):
                if answer.status != 200:
                    raise ProviderAwayError(f"the identity provider answered {answer.status} at {url}")
                body = b""
                async for part in answer.content.iter_chunked(65_536):
                    body += part
                    if len(body) > LONGEST_ANSWER_BYTES:
                        raise ProviderAwayError(f"the identity provider's answer at {url} does not end")
            told = json.loads(body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ProviderAwayError(
                f"the identity provider does not answer at {url} ({type(error).__name__})"
            ) from None
        except (ValueError, RecursionError):
            raise ProviderAwayError(f"the identity provider's answer at {url} is not JSON") from None
        if not isinstance(told, dict):
            raise ProviderAwayError(f"the identity provider's answer at {url} is not a JSON object")
        return told


def _connector() -> aiohttp.TCPConnector:
    """Asks the machine's own resolver: aiohttp's takes each name under `localhost` for loopback."""
    return aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())


def tls(settings: SignInSettings, folder: Path) -> ssl.SSLContext | bool:
    """How its certificate is judged: by `ca_file` where one is named. Raises ConfigurationError."""
    if not settings.ca_file:
        return True
    file = folder / settings.ca_file
    try:
        return ssl.create_default_context(cafile=str(file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"sign_in.ca_file = {file}: not a certificate file: {error}") from None
