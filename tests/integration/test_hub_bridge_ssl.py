"""JupyterHub with `internal_ssl`: the job gets its certificate sealed, and the hub trusts the server that shows it.

The Python proxy knows no `internal_ssl`, so the hub is asked directly, as its proxy would, with the proxy certificate.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import pytest

from schemas.base import SessionId
from schemas.lifecycle import Ended, Ready
from schemas.secrets import JobSecrets
from services._runtime.settings import load
from services._runtime.vault import Vault
from tests.services.hub_bridge.installation import installation

pytestmark = pytest.mark.timeout(120)


def _as_proxy(certificates: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / "proxy-client-ca_trust.crt"))
    own = certificates / "proxy-client" / "proxy-client"
    context.load_cert_chain(f"{own}.crt", f"{own}.key")
    return context


async def test_a_server_with_the_certificate_made_for_it(tmp_path: Path) -> None:
    async with installation(tmp_path, ["ada"]) as (hub, others, broker):
        configuration = load(tmp_path / "farlab.toml")
        launcher = Vault(broker.vault, configuration.keys_folder, "hpc-launcher")
        environments: list[dict[str, str]] = []

        async def tls(session: SessionId) -> ssl.SSLContext:
            secrets = await launcher.open(session, JobSecrets)
            assert secrets.certificates is not None
            environments.append(secrets.environment)
            files = {name: tmp_path / f"job.{name}" for name in ("keyfile", "certfile", "cafile")}
            for name, file in files.items():
                file.write_text(getattr(secrets.certificates, name))
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files["cafile"]))
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(files["certfile"], files["keyfile"])
            return context

        others.tls = tls
        port = hub.ports["hub"]
        certificates = tmp_path / "certificates"
        hub.extra_config = (
            f"c.JupyterHub.internal_ssl = True\nc.JupyterHub.internal_certs_location = {str(certificates)!r}\n"
            f"c.JupyterHub.hub_bind_url = 'https://127.0.0.1:{port}'\n"
        )
        hub.url = f"https://127.0.0.1:{port}/"
        hub.connector = lambda: aiohttp.TCPConnector(ssl=_as_proxy(certificates))
        await hub.start()
        status, answer = await hub.start_server("ada")
        assert status in (201, 202), answer
        session = await others.until("ada", Ready)
        await hub.until("ada")
        assert environments[0]["JUPYTERHUB_API_URL"].startswith("https://")
        assert not [name for name in environments[0] if name.startswith("JUPYTERHUB_SSL_")], "the job knows where"
        for name in await broker.vault.keys():
            entry = await broker.vault.get(name)
            assert entry is not None
            assert b"PRIVATE KEY" not in entry[0]
        hub.stop()
        await hub.start()
        await hub.until("ada")
        assert others.sessions("ada") == [session]
        assert await hub.stop_server("ada") in (202, 204)
        await hub.until("ada", ready=False)
        assert isinstance(others.state(session), Ended)
