"""What an emulated identity provider is told at start. Reads one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Seconds = Annotated[float, Meta(gt=0)]


class Client(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A party that lets its users sign in here. Addresses must match to the letter."""

    client_id: Name
    client_secret: Name
    redirect_uris: list[str]
    post_logout_redirect_uris: list[str] = []


class Person(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user: `claims` are told to clients beside `sub` and `preferred_username`.

    `second_factor` is the code this user gives where one is asked for; without it there is no second factor.
    """

    name: Name
    password: Name
    second_factor: str = ""
    claims: dict[str, Any] = msgspec.field(default_factory=dict)


class Lifetimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long what is given out holds, in seconds."""

    code_seconds: Seconds = 60.0
    access_token_seconds: Seconds = 300.0
    refresh_token_seconds: Seconds = 30 * 86_400.0
    sign_in_seconds: Seconds = 8 * 3_600.0


class ProviderConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An emulated provider. `told_file` is written once it listens: a line of JSON with the issuer.

    `issuer` is its name where users and clients reach it by another than the address it listens at.
    """

    host: str = "127.0.0.1"
    port: int = 0
    issuer: str = ""
    told_file: str = ""
    title: str = "Demo Identity Provider"
    clients: list[Client] = []
    people: list[Person] = []
    lifetimes: Lifetimes = Lifetimes()


def load(file: Path) -> ProviderConfiguration:
    """The configuration in a file. Raises ValueError with one line that names what is wrong."""
    try:
        return msgspec.convert(tomllib.loads(file.read_text()), ProviderConfiguration)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{file}: {error}") from None
