"""The table `[hpc_launcher]` of `farlab.toml`. Reads no file."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.base import SystemName
from services._runtime.configuration import ConfigurationError
from services._runtime.settings import Configuration
from services._runtime.systems import System


class HpcLauncherSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `[hpc_launcher]`. Without `systems` it serves all; `replica` names this process among its like."""

    systems: list[str] = []
    replica: str = ""
    reconcile_seconds: Annotated[float, Meta(gt=0)] = 15.0
    owners_per_round: Annotated[int, Meta(ge=1)] = 10


def launcher_settings(configuration: Configuration) -> HpcLauncherSettings:
    """The table, checked against the system catalogue. Raises ConfigurationError."""
    settings = configuration.section("hpc_launcher", HpcLauncherSettings)
    for name in settings.systems:
        if name not in configuration.systems:
            known = ", ".join(configuration.systems)
            raise ConfigurationError(
                f"{configuration.file}: hpc_launcher.systems: no system {name!r}; there are: {known}"
            )
    return settings


def served(configuration: Configuration, settings: HpcLauncherSettings) -> dict[SystemName, System]:
    """The systems this launcher serves."""
    return {
        name: system
        for name, system in configuration.systems.items()
        if not settings.systems or name in settings.systems
    }


def replica_name(settings: HpcLauncherSettings) -> str:
    """How this process is named as the holder of leases."""
    return settings.replica or f"{socket.gethostname()}-{os.getpid()}"
