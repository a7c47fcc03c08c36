"""An extension of the user's server: answers the tunneler's challenge, so that no other server passes for this one.

`GET <base_url>farlab/proof?challenge=<hex>` gives `{"proof": HMAC-SHA256(key, challenge)}`. Needs no login and gives
nothing away: the key stays in the file that only the job's owner reads. Python 3.9 or newer.
"""

from __future__ import annotations

import hmac
import json
import re
from pathlib import Path
from typing import Any, TypeVar

from jupyter_server.auth import decorator
from tornado.web import RequestHandler

Method = TypeVar("Method")

CHALLENGE = re.compile(r"(?:[0-9a-f]{2}){8,64}")


def _without_login(method: Method) -> Method:
    """Marks a method as one for everybody; servers before 2.13 ask for no mark."""
    mark = getattr(decorator, "allow_unauthenticated", None)
    return mark(method) if mark is not None else method


def read_key() -> bytes:
    """The session's key."""
    plan = json.loads((Path(__file__).resolve().parent / "farlab-secrets.json").read_text(encoding="utf-8"))
    return bytes.fromhex(plan["proof_key"])


class ProofHandler(RequestHandler):
    """Answers challenges."""

    def initialize(self, key: bytes) -> None:
        """Takes the session's key."""
        self.key = key

    @_without_login
    async def get(self) -> None:
        """The proof for `challenge`, 8 to 64 bytes in lower-case hexadecimal."""
        challenge = self.get_query_argument("challenge", "")
        if not CHALLENGE.fullmatch(challenge):
            self.set_status(400)
            await self.finish({"message": "challenge must be 8 to 64 bytes in hexadecimal"})
            return
        self.set_header("Cache-Control", "no-store")
        await self.finish({"proof": hmac.new(self.key, bytes.fromhex(challenge), "sha256").hexdigest()})


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "farlab_proof"}]


def _load_jupyter_server_extension(server: Any) -> None:
    server.no_browser_open_file = True  # a page with the server's token in it, readable by the user's group
    path = server.web_app.settings["base_url"].rstrip("/") + "/farlab/proof"
    server.web_app.add_handlers(".*$", [(re.escape(path), ProofHandler, {"key": read_key()})])
