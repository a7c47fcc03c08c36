"""JupyterHub's configuration as `farlab up` uses it, all from the file that FARLAB_CONFIG names. Holds no secret.

A site's own `jupyterhub_config.py` needs `c.JupyterHub.spawner_class = "farlab"`, the templates, and the settings under
"What Farlab needs"; authenticator, proxy and addresses are the site's choice.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services._runtime.configuration import ConfigurationError
from services._runtime.service import stamp_of
from services._runtime.settings import load
from services._runtime.telemetry import configure_logs
from services._runtime.vault import KeyFileError, read_secret_file
from services.hub_bridge.authenticator import FarlabAuthenticator
from services.hub_bridge.form import TEMPLATES
from services.hub_bridge.secrets import SERVICE
from services.hub_bridge.settings import HubBridgeSettings

c: Any = get_config()  # type: ignore[name-defined]  # noqa: F821 - JupyterHub defines it

try:
    configuration = load(Path(os.environ.get("FARLAB_CONFIG", "farlab.toml")))
    settings = configuration.section("hub_bridge", HubBridgeSettings)
    stamp_of(configuration, SERVICE)
    read_secret_file(configuration.keys_folder / f"{SERVICE}.seal.json")
    folder = configuration.file.parent
    if configuration.shared.sign_in is not None:
        read_secret_file(folder / configuration.shared.sign_in.client_secret_file)
    proxy_token = read_secret_file(folder / settings.proxy_token_file).decode() if settings.proxy_token_file else ""
    password = read_secret_file(folder / settings.password_file).decode() if settings.password_file else ""
    service_token = (
        read_secret_file(folder / settings.service_token_file).decode() if settings.service_token_file else ""
    )
    database = read_secret_file(folder / settings.database_url_file).decode() if settings.database_url_file else ""
except (ConfigurationError, KeyFileError) as error:
    print(f"farlab-{SERVICE}: {error}", file=sys.stderr)  # noqa: T201 - for whoever started it
    raise SystemExit(2) from None

configure_logs(SERVICE, level=configuration.shared.logs.level, log_format=configuration.shared.logs.format)
state = folder / settings.state_folder
state.mkdir(parents=True, exist_ok=True, mode=0o700)

# What Farlab needs -------------------------------------------------------------------------------------------------
c.JupyterHub.spawner_class = "farlab"
c.FarlabSpawner.farlab_config = str(configuration.file)
c.JupyterHub.template_paths = [str(TEMPLATES)]
c.JupyterHub.cleanup_servers = False  # a hub that ends ends nobody's server
c.JupyterHub.cleanup_proxy = not proxy_token
c.JupyterHub.concurrent_spawn_limit = 0  # a start that waits in a queue of its site costs the hub nothing
c.JupyterHub.tornado_settings = {
    "slow_spawn_timeout": 1
}  # refusals are known by then; the progress page tells the rest
c.JupyterHub.init_spawners_timeout = 5
c.JupyterHub.last_activity_interval = 15  # as often are the proxy's routes checked: what a restarted proxy lacks
c.Spawner.consecutive_failure_limit = 0  # a site that is down is no reason for the hub to exit
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = settings.servers_per_user

# Where it listens, and its proxy -----------------------------------------------------------------------------------
public = urlsplit(settings.public_url)
c.JupyterHub.bind_url = settings.public_url
c.JupyterHub.base_url = public.path or "/"
c.JupyterHub.hub_bind_url = f"http://{settings.hub_host}:{settings.hub_port}"
c.JupyterHub.db_url = database.strip() or f"sqlite:///{state / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(state / "cookie_secret")
c.ConfigurableHTTPProxy.api_url = settings.proxy_api_url
c.ConfigurableHTTPProxy.pid_file = str(state / "proxy.pid")
c.ConfigurableHTTPProxy.command = [sys.executable, "-m", "services.hub_bridge.proxy"]
if proxy_token:
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.auth_token = proxy_token

# Who may log in ----------------------------------------------------------------------------------------------------
c.Authenticator.allowed_users = set(settings.users)  # these exist from the start, for whoever starts servers for them
if configuration.shared.sign_in is not None:
    c.JupyterHub.authenticator_class = FarlabAuthenticator
    c.FarlabAuthenticator.farlab_config = str(configuration.file)
elif password:
    c.JupyterHub.authenticator_class = "shared-password"
    c.SharedPasswordAuthenticator.user_password = password
if service_token:
    c.JupyterHub.services = [{"name": "farlab-operator", "api_token": service_token}]
    c.JupyterHub.load_roles = [
        {
            "name": "farlab-operator",
            "services": ["farlab-operator"],
            "scopes": ["list:users", "read:users", "read:servers", "servers", "access:servers", "read:hub", "proxy"],
        }
    ]
