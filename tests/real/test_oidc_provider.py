"""Sign-in, renewal, rotation and revocation against a provider nobody here wrote: npm's certified `oidc-provider`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from schemas.access import SignedIn
from schemas.secrets import SignInSecrets
from schemas.subjects import Subjects
from services._runtime.openid import SignInSettings
from services._runtime.service import utc_now
from services._runtime.vault import Vault, write_secret_file
from services.accounts.identity_provider import OpenIdConnect
from services.accounts.ports import SignInOverError
from services.operator_cli.supervisor import dying_with
from services.operator_cli.web_sign_in import form_of
from tests.services.hub_bridge.installation import installation
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / ".npm" / "node_modules" / "oidc-provider"
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (shutil.which("node") and INSTALLED.exists()) and not os.environ.get("FARLAB_NO_SKIPS"),
        reason="npm's oidc-provider is not installed in .npm; `.ci/run` does that",
    ),
]
SIGN_IN = """
[sign_in]
issuer = "{issuer}"
client_secret_file = "client.secret"
authorize_parameters = {{ prompt = "consent" }}
"""


@contextmanager
def oidc_provider(folder: Path, callback: str, home: str) -> Iterator[str]:
    """A running provider: its issuer."""
    assert INSTALLED.exists(), f"{INSTALLED} is missing; .ci/run installs it"
    script = INSTALLED.parents[1] / "oidc_provider.mjs"  # modules are looked for beside the script
    shutil.copy(Path(__file__).with_name("oidc_provider.mjs"), script)
    with (folder / "oidc_provider.log").open("wb") as log:
        process = subprocess.Popen(
            ["node", str(script), CLIENT_ID, CLIENT_SECRET, callback, home],
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            preexec_fn=dying_with(os.getpid()),
        )
    try:
        assert process.stdout is not None
        issuer = process.stdout.readline().decode().strip()
        assert issuer.startswith("http://"), (folder / "oidc_provider.log").read_text()
        yield issuer
    finally:
        process.kill()
        process.wait(20)


async def test_a_researcher_signs_in_and_the_tokens_rotate(tmp_path: Path) -> None:
    write_secret_file(tmp_path / "client.secret", CLIENT_SECRET.encode())
    async with installation(tmp_path, ["ada"]) as (hub, _, broker):
        with oidc_provider(tmp_path, f"{hub.url}hub/oauth_callback", hub.url) as issuer:
            with (tmp_path / "farlab.toml").open("a") as file:
                file.write(SIGN_IN.format(issuer=issuer))
            await hub.start()
            await _signs_in(hub.url, issuer)
            history = await broker.log.history("ACCESS", Subjects().sign_ins())
            [event] = [each.message for each in history]
            assert isinstance(event, SignedIn)
            assert event.user == "ada"
            secrets = await Vault(broker.vault, tmp_path / "keys", "accounts").open(event.sign_in, SignInSecrets)
            assert secrets.claims["entitlements"] == ["urn:x:y"]

            settings = SignInSettings(issuer=issuer, client_secret_file="client.secret")
            provider = OpenIdConnect(settings, tmp_path, utc_now)
            first = await provider.refresh(secrets.refresh_token)
            assert first.refresh_token != secrets.refresh_token
            assert (await provider.claims(first, secrets.subject))["preferred_username"] == "ada"
            second = await provider.refresh(first.refresh_token)
            await provider.revoke(second.refresh_token)
            with pytest.raises(SignInOverError):
                await provider.refresh(second.refresh_token)
            assert "Traceback" not in hub.log_text()


async def _signs_in(hub: str, issuer: str) -> None:
    """Through the provider's own pages: who are you, and do you agree."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        async with http.get(f"{hub}hub/oauth_login") as page:
            assert str(page.url).startswith(issuer), page.url
            asked = form_of(await page.text(), "login")
        assert asked is not None
        async with http.post(asked.action, data=asked.fields | {"login": "ada", "password": "any"}) as page:
            agree = form_of(await page.text(), "prompt")
        assert agree is not None
        async with http.post(agree.action, data=agree.fields) as page:
            assert page.status == 200
            assert str(page.url).startswith(hub), page.url
            assert 'user: "ada"' in await page.text()
