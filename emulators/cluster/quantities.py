"""Kubernetes quantities, what pods ask for, and what quotas count of it. Pure."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

from emulators.cluster.kinds import Object

SUFFIXES = {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1)}
SUFFIXES |= {letter: Fraction(1000 ** (step + 1)) for step, letter in enumerate("kMGTPE")}
SUFFIXES |= {f"{letter}i": Fraction(1024 ** (step + 1)) for step, letter in enumerate("KMGTPE")}
QUANTITY = re.compile(r"^([+-]?\d+(?:\.\d*)?|\.\d+)([numkMGTPE]|[KMGTPE]i|)$")


def quantity(text: object) -> Fraction:
    """The number a quantity stands for. Raises ValueError."""
    if (parts := QUANTITY.match(str(text))) is None:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    return Fraction(parts[1]) * SUFFIXES[parts[2]]


def written(number: Fraction) -> str:
    """A quantity as text: whole, or in thousandths."""
    return str(number.numerator) if number.denominator == 1 else f"{int(number * 1000)}m"


def asked(pod: Object, which: str = "requests") -> dict[str, Fraction]:
    """What the containers of a pod request, or are limited to; a request that is not made is its limit."""
    total: dict[str, Fraction] = {}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        values = resources.get(which) or {}
        if which == "requests":
            values = {**(resources.get("limits") or {}), **values}
        for name, value in values.items():
            total[name] = total.get(name, Fraction(0)) + quantity(value)
    return total


def counted(plural: str, found: Object) -> Counter[str]:
    """What an object uses of a quota, by the quota's names."""
    uses: Counter[str] = Counter()
    if plural == "pods":
        if found.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return uses
        for name, value in asked(found).items():
            uses[f"requests.{name}"] = value  # type: ignore[assignment]
            if name in ("cpu", "memory"):
                uses[name] = value  # type: ignore[assignment]
        for name, value in asked(found, "limits").items():
            uses[f"limits.{name}"] = value  # type: ignore[assignment]
    if plural == "persistentvolumeclaims":
        wanted = found["spec"].get("resources", {}).get("requests", {}).get("storage", "0")
        uses["requests.storage"] = quantity(wanted)  # type: ignore[assignment]
    uses[plural] = 1
    uses[f"count/{plural}"] = 1
    return uses
