"""The table `[hub_bridge]` of `farlab.toml`. Reads no file."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.base import Port

Positive = Annotated[float, Meta(gt=0)]


class HubBridgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `[hub_bridge]`. File and folder names count from the file's folder.

    `start_deadline_seconds` is how long a start may wait in queues; `answer_seconds` how long a server that can be
    reached may take to answer; `broker_seconds` how long a start waits for the event log.

    The rest is read by `jupyterhub_config.py` alone, which `farlab up` uses: where users reach JupyterHub, where it
    listens for their servers, its proxy (with `proxy_token_file` it runs on its own and outlives the hub; without, the
    hub starts it), and who may log in with the password in `password_file`. `service_token_file` holds the token of the
    service `farlab-operator`, which may start and stop every server. `database_url_file` holds the address of the
    hub's database, such as `postgresql+psycopg://...`, with its password; without, it is SQLite in the state folder.
    """

    start_deadline_seconds: Positive = 7 * 86_400.0
    answer_seconds: Positive = 30.0
    broker_seconds: Positive = 10.0

    public_url: Annotated[str, Meta(pattern=r"^https?://[^/?#]+(/[^?#]*)?$")] = "http://127.0.0.1:8000"
    hub_host: str = "127.0.0.1"
    hub_port: Port = 8081
    proxy_api_url: Annotated[str, Meta(pattern=r"^https?://[^/]+$")] = "http://127.0.0.1:8001"
    proxy_token_file: str = ""
    state_folder: str = "hub"
    users: list[Annotated[str, Meta(min_length=1, max_length=255)]] = []
    password_file: str = ""
    service_token_file: str = ""
    database_url_file: str = ""
    servers_per_user: Annotated[int, Meta(ge=0)] = 0
