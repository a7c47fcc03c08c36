"""The kinds of objects the emulated cluster knows, and the selectors that pick among them. Holds no object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emulators.cluster.refusals import RefusedError

Object = dict[str, Any]
ANYWHERE = ("metadata.name", "metadata.namespace")
TERM = re.compile(
    r"^\s*(?P<key>[^\s!=,()]+)\s*(?:(?P<op>==|=|!=)\s*(?P<value>[^\s,()]*)|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?\s*$"
)


@dataclass(frozen=True)
class Kind:
    """A kind: its plural in paths, its group (empty: core), and the fields one may select by."""

    plural: str
    kind: str
    group: str = ""
    namespaced: bool = True
    fields: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """Group and version, as objects name them."""
        return f"{self.group}/v1" if self.group else "v1"


KINDS = {
    kind.plural: kind
    for kind in (
        Kind("namespaces", "Namespace", namespaced=False, fields=("status.phase",)),
        Kind("nodes", "Node", namespaced=False),
        Kind("pods", "Pod", fields=("spec.nodeName", "spec.restartPolicy", "status.phase", "status.podIP")),
        Kind("services", "Service", fields=("spec.clusterIP", "spec.type")),
        Kind("secrets", "Secret", fields=("type",)),
        Kind("configmaps", "ConfigMap"),
        Kind("persistentvolumeclaims", "PersistentVolumeClaim"),
        Kind("resourcequotas", "ResourceQuota"),
        Kind(
            "events",
            "Event",
            fields=(
                *("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid"),
                *("reason", "type"),
            ),
        ),
        Kind("networkpolicies", "NetworkPolicy", group="networking.k8s.io"),
    )
}


@dataclass(frozen=True)
class Selection:
    """Which objects a list or a watch is for."""

    namespace: str = ""
    labels: tuple[tuple[str, str, frozenset[str]], ...] = ()
    fields: tuple[tuple[str, bool, str], ...] = ()

    @classmethod
    def of(cls, kind: Kind, namespace: str, query: Mapping[str, str]) -> Selection:
        """What the query of a request asks for. Raises RefusedError (400)."""
        return cls(namespace, _labels(query.get("labelSelector", "")), _fields(kind, query.get("fieldSelector", "")))

    def picks(self, found: Object) -> bool:
        """Whether it is for this object."""
        metadata = found["metadata"]
        if self.namespace and metadata.get("namespace") != self.namespace:
            return False
        labels = metadata.get("labels") or {}
        for key, operator, values in self.labels:
            has = key in labels
            if operator == "exists" and not has:
                return False
            if operator == "absent" and has:
                return False
            if operator == "in" and labels.get(key) not in values:
                return False
            if operator == "notin" and has and labels[key] in values:
                return False
        return all((field_of(found, path) == value) is equal for path, equal, value in self.fields)


def field_of(found: Object, path: str) -> str:
    """A field by its dotted path; empty when it is not there."""
    value: Any = found
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def _labels(text: str) -> tuple[tuple[str, str, frozenset[str]], ...]:
    terms = []
    for part in re.split(r",(?![^()]*\))", text) if text.strip() else []:
        if (bare := part.strip()).startswith("!"):
            terms.append((bare[1:].strip(), "absent", frozenset[str]()))
            continue
        if (term := TERM.match(part)) is None:
            raise RefusedError(400, f"unable to parse requirement: {part.strip()!r}")
        if term["set"]:
            values = frozenset(each.strip() for each in term["values"].split(","))
            terms.append((term["key"], term["set"], values))
        elif term["op"]:
            terms.append((term["key"], "notin" if term["op"] == "!=" else "in", frozenset([term["value"]])))
        else:
            terms.append((term["key"], "exists", frozenset[str]()))
    return tuple(terms)


def _fields(kind: Kind, text: str) -> tuple[tuple[str, bool, str], ...]:
    terms = []
    for part in text.split(",") if text.strip() else []:
        key, sign, value = re.match(r"([^!=]*)(!=|==|=|$)(.*)", part.strip()).groups()  # type: ignore[union-attr]
        if not sign:
            raise RefusedError(400, f"invalid selector: {part!r}; can't understand {part!r}")
        if key not in ANYWHERE and key not in kind.fields:
            raise RefusedError(400, f'field label not supported: "{key}"')
        terms.append((key, sign != "!=", value))
    return tuple(terms)
