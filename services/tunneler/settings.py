"""The table `[tunneler]` of `farlab.toml`. Reads no file."""

from __future__ import annotations

import socket
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.base import Slug
from schemas.subjects import slug
from services._runtime.settings import Configuration


def _host_name() -> str:
    return slug(socket.gethostname().partition(".")[0])


class TunnelerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `[tunneler]`.

    `replica` names this tunneler; each needs a name of its own that it keeps over restarts. The hub connects to
    `bind_host` at a port of `ports`; `[0, 0]` takes any free one.
    """

    replica: Slug = msgspec.field(default_factory=_host_name)
    bind_host: str = "127.0.0.1"
    ports: tuple[Annotated[int, Meta(ge=0, le=65535)], Annotated[int, Meta(ge=0, le=65535)]] = (0, 0)
    check_seconds: Annotated[float, Meta(gt=0)] = 30.0
    reconcile_seconds: Annotated[float, Meta(gt=0)] = 2.0
    unreachable_seconds: Annotated[float, Meta(gt=0)] = 120.0


def tunneler_settings(configuration: Configuration) -> TunnelerSettings:
    """The table `[tunneler]`. Raises ConfigurationError."""
    return configuration.section("tunneler", TunnelerSettings)
