"""What a request to the API server is about, from its path and method. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from emulators.cluster.kinds import KINDS, Kind
from emulators.cluster.refusals import RefusedError

SUBRESOURCES = {"pods": ("status", "log", "portforward"), "namespaces": ("status",), "resourcequotas": ("status",)}
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True)
class Target:
    """A collection when `name` is empty, an object, or a part of one."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    part: str = ""

    @property
    def resource(self) -> str:
        """As rights name it."""
        return f"{self.kind.plural}/{self.part}" if self.part else self.kind.plural


def target(path: str) -> Target:
    """What a path names. Raises RefusedError (404)."""
    match path.strip("/").split("/"):
        case ["api", "v1", *rest]:
            group = ""
        case ["apis", group, "v1", *rest]:
            pass
        case _:
            raise RefusedError(404, "the server could not find the requested resource")
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] in KINDS:
        namespace, rest = rest[1], rest[2:]
    kind = KINDS.get(rest[0]) if rest else None
    name, part = (*rest[1:], "", "")[:2]
    known = part == "" or (kind is not None and part in SUBRESOURCES.get(kind.plural, ()))
    if (
        kind is None
        or kind.group != group
        or len(rest) > 3
        or not known
        or (name and kind.namespaced and not namespace)
    ):
        raise RefusedError(404, "the server could not find the requested resource")
    return Target(kind, namespace, name, part)


def verb(method: str, what: Target, *, watch: bool) -> str:
    """As rights name it."""
    if method == "DELETE":
        return "delete" if what.name else "deletecollection"
    if method == "GET":
        return "watch" if watch else "get" if what.name else "list"
    return VERBS.get(method, method.lower())
