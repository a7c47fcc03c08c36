"""`farlab config check --reach` at an identity provider: one that is well, and everything that can be wrong with it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from emulators.identity_provider.provider import IdentityProvider
from services._runtime.openid import SignInSettings
from services._runtime.settings import Configuration, Shared
from services.operator_cli.set_up.reach import findings
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, identity_provider


def configured(folder: Path, provider: IdentityProvider, secret: str, **more: str) -> Configuration:
    file = folder / "client.secret"
    file.touch(mode=0o600)
    file.write_text(secret)
    told = {"issuer": provider.issuer, "client_id": CLIENT_ID, "client_secret_file": file.name, **more}
    sign_in = msgspec.convert(told, SignInSettings)
    return Configuration(file=folder / "farlab.toml", shared=Shared(sign_in=sign_in), systems={}, sections={})


async def problem(configuration: Configuration) -> str:
    [found] = [each for each in await findings(configuration) if each.asked == "identity provider"]
    return found.problem


async def test_a_provider_that_knows_us_is_well(tmp_path: Path) -> None:
    async with identity_provider() as provider:
        assert await problem(configured(tmp_path, provider, CLIENT_SECRET)) == ""


@pytest.mark.parametrize(
    ("secret", "more", "said"),
    [
        ("another-secret", {}, "is sign_in.client_id = farlab registered there, with the secret in client_secret_file"),
        (CLIENT_SECRET, {"client_id": "nobody"}, "is sign_in.client_id = nobody registered there"),
        (CLIENT_SECRET, {"issuer": "http://127.0.0.1:1/nowhere"}, "does not answer at http://127.0.0.1:1/nowhere"),
        (CLIENT_SECRET, {"client_secret_file": "missing"}, "missing: No such file"),
        (CLIENT_SECRET, {"ca_file": "missing.pem"}, "missing.pem: not a certificate file"),
    ],
)
async def test_what_is_wrong_is_said_with_its_remedy(
    tmp_path: Path, secret: str, more: dict[str, str], said: str
) -> None:
    async with identity_provider() as provider:
        told = await problem(configured(tmp_path, provider, secret, **more))
    assert said in told
    assert secret not in told


async def test_without_sign_in_nobody_is_asked(tmp_path: Path) -> None:
    bare = Configuration(file=tmp_path / "farlab.toml", shared=Shared(), systems={}, sections={})
    assert "identity provider" not in [each.asked for each in await findings(bare)]
