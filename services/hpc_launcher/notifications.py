"""Takes the notifications of UNICORE sites: a hint to ask now, believed only as far as that. Records nothing.

UNICORE/X posts once, with a JWT signed by its server key: `iss` is the server's DN, `sub` the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

import jwt
import msgspec
import structlog
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import NameOID
from jwt.exceptions import InvalidSubjectError

from schemas.base import SessionId, SystemName
from schemas.lifecycle import WithJob
from services._runtime.errors import PermanentError, TransientError
from services._runtime.view import SessionView
from services.hpc_launcher.ports import Site
from services.hpc_launcher.script import owner_of
from services.hpc_launcher.unicore_documents import job_id

_log = structlog.get_logger("farlab.hpc_launcher")

ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"]
REFETCH_SECONDS = 60.0
"""How long after a fetch a signature that does not fit is simply false, and no reason to fetch again."""
CLOCKS_APART_SECONDS = 60
PATH = "/notifications/{system}/{session}"


class Body(msgspec.Struct, frozen=True):
    """What of a notification is looked at: which job it is about. Its status is asked for, not believed."""

    href: str


class Notifications:
    """The HTTP endpoint. `hint` is called with sessions whose job shall be asked for."""

    def __init__(
        self, *, sites: Mapping[SystemName, Site], view: SessionView, hint: Callable[[SystemName, SessionId], None]
    ) -> None:
        self._sites = sites
        self._view = view
        self._hint = hint
        self._fetched_at: dict[SystemName, float] = {}

    async def take(self, request: web.Request) -> web.Response:
        """Answers a notification: 204 when it is one, 401 when it is not signed by the site, 404 or 400 else."""
        system, session = SystemName(request.match_info["system"]), SessionId(request.match_info["session"])
        site, placed = self._sites.get(system), self._view.get(session)
        if site is None or placed is None or not isinstance(placed.state, WithJob):
            raise web.HTTPNotFound
        state = placed.state
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        try:
            identity = owner_of(state.request, state.admission).identity
            await self._verify(system, site, token, identity)
        except (jwt.PyJWTError, PermanentError, ValueError) as error:
            _log.warning("notification refused", system=system, session=session, reason=str(error))
            raise web.HTTPUnauthorized from None
        except TransientError as error:
            _log.info("notification not verified", system=system, session=session, reason=error.reason)
            raise web.HTTPServiceUnavailable from None
        try:
            body = msgspec.json.decode(await request.read(), type=Body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise web.HTTPBadRequest from None
        if state.request.system != system or job_id(body.href) != state.job:
            raise web.HTTPNotFound
        self._hint(system, session)
        return web.Response(status=204)

    async def _verify(self, system: SystemName, site: Site, token: str, identity: str) -> None:
        """Raises PyJWTError unless the site signed this about this user; fetches its certificate when it must."""
        fetched_at = self._fetched_at.get(system)
        if fetched_at is None:
            self._fetched_at[system] = monotonic()
        pem = await site.certificate()
        try:
            verify(token, pem, identity)
        except jwt.InvalidSignatureError:
            if fetched_at is None or monotonic() - fetched_at < REFETCH_SECONDS:
                raise
            self._fetched_at[system] = monotonic()
            verify(token, await site.certificate(fresh=True), identity)


def verify(token: str, pem: str, identity: str) -> None:
    """Raises PyJWTError or ValueError unless the owner of the certificate signed the token about this user."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    key = certificate.public_key()
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey):
        raise ValueError("the site's certificate has a key of a kind that signs no tokens")
    claims = jwt.decode(
        token,
        key,
        algorithms=ALGORITHMS,
        leeway=CLOCKS_APART_SECONDS,
        options={"require": ["iss", "sub", "iat"], "verify_aud": False},
    )
    if _parts(str(claims["iss"])) != _parts(certificate.subject.rfc4514_string(_NAMES)):
        raise jwt.InvalidIssuerError("the issuer is not the site's server")
    if _parts(str(claims["sub"])) != _parts(identity):
        raise InvalidSubjectError("the notification is about another user")


_NAMES = {NameOID.EMAIL_ADDRESS: "EMAILADDRESS"}


def _parts(name: str) -> list[str]:
    """A distinguished name without regard to order, case and spaces, which differ between its writers."""
    return sorted("=".join(side.strip().casefold() for side in part.split("=", 1)) for part in name.split(","))
