"""The word by which slurmrestd takes this service for a user: a JWT of minutes, signed with the site's key.

Holds the key, and shows or logs neither it nor a token.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import OctKey

from services._runtime.vault import KeyFileError, read_secret_file

LIFETIME_SECONDS = 300
USED_SECONDS = 120.0
"""A token is signed anew well before it expires: a slow answer or a clock that is off must not find it stale."""
KEPT = 10_000
SHORTEST_KEY_BYTES = 32


class SlurmTokens:
    """Tokens as Slurm's own `auth/jwt` takes them: HS256, with `sun` for the user (slurm.schedmd.com/jwt.html)."""

    def __init__(self, key_file: Path, clock: Callable[[], float] = time.time) -> None:
        """Raises KeyFileError for a key that others may read, or that is none."""
        key = read_secret_file(key_file)
        if len(key) < SHORTEST_KEY_BYTES:
            raise KeyFileError(
                f"{key_file}: {len(key)} bytes are no key for HS256; copy the site's jwt_hs256.key of 32 or more"
            )
        self._key = OctKey.import_key(key)
        self._clock = clock
        self._made: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def token(self, account: str) -> str:
        """A token for this account, good for minutes yet."""
        now = self._clock()
        made = self._made.get(account)
        if made is not None and 0 <= now - made[0] < USED_SECONDS:
            return made[1]
        claims = {"sun": account, "iat": int(now), "exp": int(now) + LIFETIME_SECONDS}
        token = jwt.encode({"alg": "HS256"}, claims, self._key)
        self._made[account] = (now, token)
        self._made.move_to_end(account)
        if len(self._made) > KEPT:
            self._made.popitem(last=False)
        return token
