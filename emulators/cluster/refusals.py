"""What the API server refuses with: a `metav1.Status`, as the clients of Kubernetes read it. Decides nothing."""

from __future__ import annotations

from typing import Any

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    500: "InternalError",
}


class RefusedError(Exception):
    """A request is refused; `reason` is the machine's word where it is not the code's usual one."""

    def __init__(self, code: int, message: str, *, reason: str = "", details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason or REASONS[code],
            "code": code,
        }
        if details:
            self.status["details"] = details


def not_found(plural: str, name: str) -> RefusedError:
    """404 for an object."""
    return RefusedError(404, f'{plural} "{name}" not found', details={"name": name, "kind": plural})


def already_exists(plural: str, name: str) -> RefusedError:
    """409 for a name that is taken."""
    details = {"name": name, "kind": plural}
    return RefusedError(409, f'{plural} "{name}" already exists', reason="AlreadyExists", details=details)


def conflict(plural: str, name: str, why: str) -> RefusedError:
    """409 for a write that was made from an older version, or a precondition that does not hold."""
    message = f'Operation cannot be fulfilled on {plural} "{name}": {why}'
    return RefusedError(409, message, details={"name": name, "kind": plural})


def forbidden(plural: str, name: str, why: str) -> RefusedError:
    """403 by admission or by a missing right."""
    named = f'{plural} "{name}"' if name else plural
    return RefusedError(403, f"{named} is forbidden: {why}", details={"name": name, "kind": plural})


def expired(message: str = "The resourceVersion for the provided watch is too old.") -> RefusedError:
    """410 for a version whose history is gone."""
    return RefusedError(410, message)


def invalid(kind: str, name: str, causes: list[tuple[str, str, str]]) -> RefusedError:
    """422; the causes are (field, reason, message)."""
    told = ", ".join(f"{field}: {message}" for field, _, message in causes)
    return RefusedError(
        422,
        f'{kind} "{name}" is invalid: {told if len(causes) == 1 else f"[{told}]"}',
        details={
            "name": name,
            "kind": kind,
            "causes": [{"reason": reason, "message": message, "field": field} for field, reason, message in causes],
        },
    )
