"""A network of its own for some processes, joined by one cable that can be cut. Needs root and `ip`.

A cut is silent: what is on its way is lost, and nobody is told that a connection is gone, as with a broken switch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

needs_namespaces = pytest.mark.skipif(
    (os.geteuid() != 0 or shutil.which("ip") is None) and not os.environ.get("FARLAB_NO_SKIPS"),
    reason="network namespaces need root and ip (iproute2)",
)


class Namespace:
    """The namespace: `inside` is an address of its end of the cable, `outside` of ours."""

    def __init__(self, number: int) -> None:
        self.name = f"farlab-{os.getpid()}-{number}"
        self._cable = (f"fo{os.getpid() % 100_000}{number}", f"fi{os.getpid() % 100_000}{number}")
        network = f"10.231.{os.getpid() % 250}.{number * 4}"
        base = network.rpartition(".")[0]
        self.outside, self.inside = f"{base}.{number * 4 + 1}", f"{base}.{number * 4 + 2}"

    @property
    def enter(self) -> tuple[str, ...]:
        """What a command begins with that runs inside."""
        return ("ip", "netns", "exec", self.name)

    def make(self) -> None:
        """Makes it and joins it to ours."""
        ours, theirs = self._cable
        _ip("netns", "add", self.name)
        _ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", self.name)
        _ip("addr", "add", f"{self.outside}/30", "dev", ours)
        _ip("link", "set", ours, "up")
        _ip("-n", self.name, "addr", "add", f"{self.inside}/30", "dev", theirs)
        _ip("-n", self.name, "link", "set", "lo", "up")
        self.mend()

    def cut(self) -> None:
        """Pulls the cable at the far end."""
        _ip("-n", self.name, "link", "set", self._cable[1], "down")

    def mend(self) -> None:
        """Puts it back."""
        _ip("-n", self.name, "link", "set", self._cable[1], "up")

    def remove(self) -> None:
        """Takes it away; the cable goes with it."""
        _ip("netns", "del", self.name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def namespace(number: int = 1) -> Iterator[Namespace]:
    """A namespace that ends with the block; `number` (1 to 60) tells several of one process apart."""
    made = Namespace(number)
    made.make()
    try:
        yield made
    finally:
        made.remove()
