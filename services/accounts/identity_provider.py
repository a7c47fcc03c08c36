"""The identity provider as accounts speak to it: refresh, userinfo, revocation, by Authlib's client. Keeps no token."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import AsyncOAuth2Client

from services._runtime.openid import SignInSettings, UntrustedError
from services._runtime.openid_provider import OpenIdProvider, ProviderAwayError, tls
from services._runtime.vault import read_secret_file
from services.accounts.ports import Refreshed, SignInOverError

OVER = ("invalid_grant", "invalid_token")
"""The errors that end a sign-in (RFC 6749, 5.2; RFC 6750, 3.1). Any other is our configuration's or the provider's."""
UNSTATED_LIFE_SECONDS = 60.0
"""How long an access token is believed to hold when the provider does not say."""


class OpenIdConnect:
    """One provider, for one client with a secret."""

    def __init__(self, settings: SignInSettings, folder: Path, now: Callable[[], datetime]) -> None:
        """Raises ConfigurationError or KeyFileError."""
        self._settings = settings
        self._provider = OpenIdProvider(settings, folder, lambda: now().timestamp())
        self._secret = read_secret_file(folder / settings.client_secret_file).decode().strip()
        self._tls: ssl.SSLContext | bool = tls(settings, folder)
        self._now = now

    async def refresh(self, refresh_token: str, audience: str = "") -> Refreshed:
        """As the port says. `audience` goes as `resource` (RFC 8707)."""
        metadata = await self._provider.metadata()
        more = {"resource": audience} if audience else {}
        async with self._client() as client:
            token = await client.refresh_token(metadata.token_endpoint, refresh_token=refresh_token, **more)
        access_token, next_token = token.get("access_token"), token.get("refresh_token") or refresh_token
        if not isinstance(access_token, str) or not access_token or not isinstance(next_token, str):
            raise ProviderAwayError("the identity provider's answer to a refresh has no access token")
        life = token.get("expires_in")
        seconds = float(life) if isinstance(life, int | float) and 0 < life < 10**9 else UNSTATED_LIFE_SECONDS
        return Refreshed(
            access_token=access_token,
            expires_at=self._now() + timedelta(seconds=seconds),
            refresh_token=next_token,
            id_token=str(token.get("id_token") or ""),
        )

    async def claims(self, fresh: Refreshed, subject: str) -> dict[str, Any]:
        """As the port says: the ID token's claims, if one came with the refresh, and userinfo's, which win."""
        metadata = await self._provider.metadata()
        told: dict[str, Any] = {}
        if fresh.id_token:
            told = (await self._provider.claims(fresh.id_token, nonce=None, subject=subject)).every
        if metadata.userinfo_endpoint is None:
            return told
        headers = {"Authorization": f"Bearer {fresh.access_token}", "Accept": "application/json"}
        async with self._client() as client:
            answer = await client.request("GET", metadata.userinfo_endpoint, headers=headers, withhold_token=True)
            if answer.status_code in (401, 403):
                raise SignInOverError("userinfo refuses its access token")
            answer.raise_for_status()
            userinfo = answer.json()
        if not isinstance(userinfo, dict) or userinfo.get("sub") != subject:
            raise UntrustedError("userinfo speaks of another person")
        return told | userinfo

    async def revoke(self, refresh_token: str) -> None:
        """As the port says. A provider without revocation (RFC 7009) lets the token grow old."""
        metadata = await self._provider.metadata()
        if metadata.revocation_endpoint is None:
            return
        async with self._client() as client:
            answer = await client.revoke_token(
                metadata.revocation_endpoint,
                token=refresh_token,
                token_type_hint="refresh_token",  # noqa: S106 - a kind's name
            )
            answer.raise_for_status()

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        """A client for one call; what goes wrong in it becomes an error of ours, with nothing of a token in it."""
        try:
            async with AsyncOAuth2Client(
                self._settings.client_id,
                self._secret,
                token_endpoint_auth_method="client_secret_basic",  # noqa: S106 - a method's name
                timeout=self._settings.timeout_seconds,
                verify=self._tls,
            ) as client:
                yield client
        except AuthlibBaseError as error:
            if error.error in OVER:
                raise SignInOverError(error.error) from None
            raise ProviderAwayError(f"the identity provider refuses this service: {str(error.error)[:80]}") from None
        except httpx2.HTTPStatusError as error:
            raise ProviderAwayError(f"the identity provider answered {error.response.status_code}") from None
        except (httpx2.HTTPError, OSError, ValueError) as error:
            raise ProviderAwayError(f"the identity provider does not answer ({type(error).__name__})") from None
