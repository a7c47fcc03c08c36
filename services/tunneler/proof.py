"""Checks the data path: that a session's own server answers at an address. Trusts nothing it reads.

Under HTTP the server answers a random challenge with HMAC-SHA256 under the key only it and the tunneler have; under
`internal_ssl` it presents the certificate made for it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import ssl
from hashlib import sha256

from schemas.secrets import CertificateProof, HmacProof, ServerProof
from services.tunneler.ports import Address, LostError, WrongServerError

SECONDS = 5.0
MOST_BYTES = 16 * 1024


async def prove(address: Address, base_url: str, proof: ServerProof) -> None:
    """See `ports.Prove`. Takes at most five seconds."""
    try:
        async with asyncio.timeout(SECONDS):
            match proof:
                case HmacProof(key=key):
                    await _prove_by_challenge(address, base_url, bytes.fromhex(key))
                case CertificateProof(sha256=fingerprint):
                    await _prove_by_certificate(address, fingerprint)
    except TimeoutError:
        raise LostError(f"the server did not answer within {SECONDS:.0f} s") from None
    except (OSError, asyncio.IncompleteReadError) as error:
        raise LostError(f"the server cannot be reached: {str(error) or type(error).__name__}") from error


async def _prove_by_challenge(address: Address, base_url: str, key: bytes) -> None:
    challenge = secrets.token_hex(16)
    path = f"{base_url.rstrip('/')}/farlab/proof?challenge={challenge}"
    head, body = await _get(address, path)
    status = head.split(b" ", 2)[1:2]
    if status == [b"503"]:
        raise LostError("the server is still starting")
    expected = hmac.new(key, bytes.fromhex(challenge), sha256).hexdigest()
    try:
        answer = str(json.loads(body)["proof"]) if status == [b"200"] else ""
    except (ValueError, KeyError, TypeError):
        answer = ""
    if not hmac.compare_digest(answer.encode(), expected.encode()):
        raise WrongServerError("something else than the session's server answers at its address")


async def _get(address: Address, path: str) -> tuple[bytes, bytes]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        lines = [f"GET {path} HTTP/1.1", f"Host: {address.host}", "Accept: application/json", "Connection: close"]
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii", "replace"))
        await writer.drain()
        answer = bytearray()
        while len(answer) < MOST_BYTES and (part := await reader.read(4096)):
            answer += part
            head, separator, body = bytes(answer).partition(b"\r\n\r\n")
            if separator and len(body) >= _length(head):
                return head, body
        if not answer:
            raise LostError("the connection was closed without an answer")
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        return head, body
    finally:
        writer.close()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return MOST_BYTES


async def _prove_by_certificate(address: Address, fingerprint: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the fingerprint is what is verified
    try:
        _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    except ssl.SSLError as error:
        raise WrongServerError(f"no TLS server answers: {error.reason}") from error
    try:
        presented = writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
    finally:
        writer.close()
    if not hmac.compare_digest(sha256(presented).hexdigest(), fingerprint):
        raise WrongServerError("the server presents a certificate of another session")
