"""What the tunneler needs of the world: ways to servers, and a proof of where they lead. No implementation."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from schemas.base import SessionId
from schemas.secrets import ServerProof


class Address(msgspec.Struct, frozen=True):
    """A host and a port."""

    host: str
    port: int


class Target(Address, frozen=True):
    """Where a server listens, and which job it is, as whom: some ways lead by that."""

    job: str = ""
    identity: str = ""
    account: str = ""
    project: str = ""


class LostError(Exception):
    """The way is broken, and why. It may come back."""


class WrongServerError(Exception):
    """Something answers that is not the session's server: a port was recycled, or someone took it."""


class Way(Protocol):
    """One open way from the hub's side to one server."""

    @property
    def address(self) -> Address:
        """Where the hub connects."""

    @property
    def via(self) -> str:
        """What it leads through, for people."""

    async def close(self) -> None:
        """Ends it and every connection on it."""


class Ways(Protocol):
    """How the servers of one system are reached."""

    came_back: asyncio.Event
    """Set when the ways came back after a loss; whoever checks them clears it."""

    async def start(self) -> None:
        """Begins to keep up what the ways need."""

    async def open(self, session: SessionId, target: Target, wanted_port: int) -> Way:
        """Opens a way to the target in place of an earlier one, at `wanted_port` where it is free (0: any).

        Raises LostError.
        """

    async def forget(self, session: SessionId) -> None:
        """Closes the session's way. Safe to repeat."""

    async def lead_to_hub(self, serve: bool) -> None:
        """Begins, or ceases, to be the replica that lets jobs reach the hub."""

    async def close(self) -> None:
        """Closes every way."""


class Prove(Protocol):
    """Checks that a session's server answers at an address."""

    async def __call__(self, address: Address, base_url: str, proof: ServerProof) -> None:
        """Returns when it does. Raises LostError when nothing answers, WrongServerError when something else does."""
