"""Sealed secrets of sessions and sign-ins: each opens for one recipient, and who seals knows public keys only.

No history. JWE (RFC 7516) in compact form, ECDH-ES with X25519 (RFC 8037) and AES-256-GCM. Entries live under
`<session or sign-in>.<recipient>` in the bucket `vault`, with a time to live, and are deleted at its end.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from schemas.base import SessionId, SignInId
from services._runtime.errors import PermanentError
from services._runtime.log import Bucket

Secret = TypeVar("Secret")
Owner = SessionId | SignInId

ALGORITHM = {"alg": "ECDH-ES", "enc": "A256GCM"}
RECIPIENTS = ("hub-bridge", "hpc-launcher", "cloud-launcher", "tunneler", "accounts")


class KeyFileError(Exception):
    """A key file is missing, damaged or readable by others; the text names the file and the remedy."""


def read_secret_file(path: Path) -> bytes:
    """The content of a file only its owner may read. Raises KeyFileError with the remedy otherwise."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}; make the keys with `farlab keys`") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyFileError(f"{path}: others may read it (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}")
    return content


def write_secret_file(path: Path, content: bytes) -> None:
    """Writes a file that was never readable by others, not even for a moment."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)


def make_keys(folder: Path) -> list[str]:
    """Makes what is missing in a folder of keys: per service a sealing key pair and a key for event ids.

    Returns the names of the files it made. `<service>.seal.json` and `<service>.ids` are secret;
    `<service>.public.json` is for everyone who seals to that service.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = []
    for service in (*RECIPIENTS, "operator-cli"):
        secret, public, ids = (folder / f"{service}.{end}" for end in ("seal.json", "public.json", "ids"))
        if not secret.exists():
            key = OKPKey.generate_key("X25519")
            write_secret_file(secret, msgspec.json.encode(key.as_dict(private=True)))
            public.write_bytes(msgspec.json.encode(key.as_dict(private=False)))
            made += [secret.name, public.name]
        if not ids.exists():
            write_secret_file(ids, os.urandom(32))
            made.append(ids.name)
    return made


class Vault:
    """Seals to any recipient, and opens what was sealed to its own service."""

    def __init__(self, bucket: Bucket, keys_folder: Path, service: str) -> None:
        self._bucket = bucket
        self._folder = keys_folder
        self._service = service
        self._public: dict[str, OKPKey] = {}
        self._own: OKPKey = _key(f"{service}.seal.json", read_secret_file(keys_folder / f"{service}.seal.json"))

    def seal(self, recipient: str, secret: object) -> str:
        """The secret as JSON, sealed to a recipient. Raises KeyFileError when its public key is missing."""
        return jwe.encrypt_compact(ALGORITHM, msgspec.json.encode(secret), self._public_key(recipient))

    def unseal(self, sealed: str | bytes, secret_type: type[Secret]) -> Secret:
        """What was sealed to this service. Raises PermanentError when it was not, or is damaged."""
        try:
            plain: Any = jwe.decrypt_compact(sealed, self._own).plaintext
            return msgspec.json.decode(plain or b"", type=secret_type)
        except (JoseError, ValueError, TypeError, LookupError, AttributeError, msgspec.MsgspecError):
            # joserfc looks at a header's fields before it looks whether they are what they should be.
            raise PermanentError(
                "sealed-for-another",
                f"A sealed secret could not be opened by {self._service}.",
                "An operator should check that all services share one folder of keys.",
            ) from None

    async def put(self, owner: Owner, recipient: str, secret: object) -> None:
        """Keeps a secret of a session or sign-in for a recipient, in place of an earlier one."""
        await self._bucket.put(f"{owner}.{recipient}", self.seal(recipient, secret).encode())

    async def open(self, owner: Owner, secret_type: type[Secret]) -> Secret:
        """This service's secret of a session. Raises PermanentError when there is none (any more)."""
        entry = await self._bucket.get(f"{owner}.{self._service}")
        if entry is None:
            raise PermanentError(
                "secrets-gone",
                "The sealed secrets of this session are gone: they expired, or the session has ended.",
                "Start the server again.",
            )
        return self.unseal(entry[0], secret_type)

    async def forget(self, owner: Owner) -> None:
        """Deletes everything kept for a session or sign-in, for whichever recipient. Safe to repeat.

        The hub bridge's entry goes last: it is what a hub that was killed in between finds the others by.
        """
        for recipient in reversed(RECIPIENTS):
            key = f"{owner}.{recipient}"
            if await self._bucket.get(key) is not None:
                await self._bucket.delete(key)

    async def forget_own(self, owner: Owner) -> None:
        """Deletes what is kept for this service alone. Safe to repeat."""
        await self._bucket.delete(f"{owner}.{self._service}")

    async def names(self) -> list[str]:
        """The keys of all entries, never their values."""
        return await self._bucket.keys()

    def _public_key(self, recipient: str) -> OKPKey:
        if recipient not in self._public:
            path = self._folder / f"{recipient}.public.json"
            try:
                self._public[recipient] = _key(path.name, path.read_bytes())
            except OSError as error:
                raise KeyFileError(f"{path}: {error.strerror}; make the keys with `farlab keys`") from error
        return self._public[recipient]


def _key(name: str, content: bytes) -> OKPKey:
    try:
        return OKPKey.import_key(msgspec.json.decode(content, type=dict[str, Any]))
    except (JoseError, ValueError, msgspec.MsgspecError) as error:
        raise KeyFileError(
            f"{name}: not a key ({type(error).__name__}); make the keys anew with `farlab keys`"
        ) from None
