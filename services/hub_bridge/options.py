"""What a user asked for, validated against what the user may choose from: form and API alike. Pure; starts nothing.

Accounts judge every start again: this is here so that a wrong choice is answered at once, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable, Mapping, Sequence

import msgspec

from schemas.session import HpcPlace, Resources
from services.hub_bridge.clouds import CloudChoice, CloudOffer
from services.hub_bridge.offer import Offer, PartitionOffer, SystemOffer

FIELDS = (
    "system",
    "vo",
    "account",
    "project",
    "partition",
    "flavour",
    "image",
    "runtime_minutes",
    "nodes",
    "cores",
    "gpus",
    "reservation",
    "software",
)
"""The options of a start, in the order of the form."""
SOFTWARE = ("jupyterlab",)
LONGEST = 64
SHOWN = 60


class OptionsError(ValueError):
    """One option cannot be: the field, the value as given, what is wrong, and what helps, in one line."""

    def __init__(self, field: str, value: object, problem: str, remedy: str) -> None:
        self.field = field
        self.remedy = remedy
        given = "" if value is None else f" = {shown(value)}"
        super().__init__(f"{field}{given}: {problem}; {remedy}")


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A start as the user wants it, complete and allowed."""

    system: str
    vo: str
    account: str
    project: str
    partition: str
    runtime_minutes: int
    nodes: int = 1
    cores: int | None = None
    gpus: int = 0
    reservation: str | None = None
    software: str = "jupyterlab"

    @property
    def place(self) -> HpcPlace:
        """Where it runs."""
        return HpcPlace(account=self.account, project=self.project, partition=self.partition)

    @property
    def resources(self) -> Resources:
        """What the scheduler is asked for."""
        return Resources(
            runtime_seconds=self.runtime_minutes * 60,
            nodes=self.nodes,
            cores=self.cores,
            gpus=self.gpus,
            reservation=self.reservation,
        )

    def options(self) -> dict[str, object]:
        """The same as JupyterHub keeps it, for the next start."""
        plain: dict[str, object] = msgspec.to_builtins(self)
        return {name: value for name, value in plain.items() if value is not None}


def from_form(form: Mapping[str, Sequence[object]]) -> dict[str, object]:
    """The options of a submitted form or query, where every value comes as a list. Empty fields were not filled in.

    Raises OptionsError for a field given twice.
    """
    options: dict[str, object] = {}
    for name, values in form.items():
        if name == "_xsrf":
            continue
        if len(values) != 1:
            raise OptionsError(shown(name), None, f"given {len(values)} times", "give it once")
        if values[0] != "":
            options[name] = values[0]
    return options


def choose(options: Mapping[str, object], offer: Offer) -> Choice | CloudChoice:
    """The complete choice. What is left out and has only one possible value takes that value.

    Raises OptionsError for the first option that cannot be.
    """
    for name in options:
        if name not in FIELDS:
            near = difflib.get_close_matches(str(name)[:LONGEST], FIELDS, 1)
            raise OptionsError(
                shown(name),
                None,
                "not an option",
                f"did you mean {near[0]}?" if near else f"there are: {_list(FIELDS)}",
            )
    if not offer.organisations:
        raise OptionsError(
            "system", options.get("system"), "no system is open to you", "ask your support for an account on one"
        )
    vo = _one_of("vo", options, offer.organisations, first=True)
    systems, clouds = offer.organisations[vo].systems, offer.organisations[vo].clouds
    name = _one_of("system", options, [*systems, *clouds])
    defaults = offer.organisations[vo].defaults.get(name, {})
    if name in clouds:
        cloud = clouds[name]
        fitting = _fitting(defaults, {"flavour": cloud.flavours, "image": cloud.images})
        return _on_cloud({**fitting, **_given(options)}, vo, name, cloud)
    system = systems[name]
    account = _one_of("account", options, system.accounts)
    project = _one_of("project", options, system.accounts[account])
    partitions = system.accounts[account][project]
    partition = _one_of("partition", {**_fitting(defaults, {"partition": partitions}), **_given(options)}, partitions)
    if partition == defaults.get("partition", partition):
        options = {**_clamped(defaults, system.partitions[partition]), **_given(options)}
    return _with_resources(options, system, Placing(vo, name, account, project, partition))


def _given(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None and value != ""}


def _fitting(defaults: Mapping[str, str | int], open_: Mapping[str, Container[str]]) -> dict[str, object]:
    """An organisation's defaults, or none of them where a name among them is not open to this user."""
    fits = all(str(defaults[name]) in names for name, names in open_.items() if name in defaults)
    return dict(defaults) if fits else {}


def _on_cloud(options: Mapping[str, object], vo: str, name: str, cloud: CloudOffer) -> CloudChoice:
    flavour = _one_of("flavour", options, cloud.flavours, first=True)
    image = _one_of("image", options, cloud.images, first=True)
    limits = cloud.flavours[flavour]
    most = limits.max_runtime_minutes
    return CloudChoice(
        system=name,
        vo=vo,
        flavour=flavour,
        image=image,
        runtime_minutes=_number("runtime_minutes", options, 1, most, most, "the flavour's"),
        cores=cloud.cores[flavour],
        gpus=limits.gpus,
        memory_bytes=cloud.memory_bytes[flavour],
        software=_one_of("software", options, SOFTWARE, first=True),
    )


class Placing(msgspec.Struct, frozen=True):
    """The names on the way to a partition."""

    vo: str
    system: str
    account: str
    project: str
    partition: str


def _with_resources(options: Mapping[str, object], system: SystemOffer, at: Placing) -> Choice:
    limits = system.partitions[at.partition]
    least, most = limits.min_runtime_minutes, limits.max_runtime_minutes
    nodes = _number("nodes", options, 1, limits.max_nodes, 1)
    cores = limits.cores_per_node * nodes
    return Choice(
        system=at.system,
        vo=at.vo,
        account=at.account,
        project=at.project,
        partition=at.partition,
        runtime_minutes=_number("runtime_minutes", options, least, most, limits.default_runtime_minutes),
        nodes=nodes,
        cores=_number("cores", options, 1, cores, 1) if options.get("cores") is not None else None,
        gpus=_number("gpus", options, 0, min(limits.gpus_per_node * nodes, limits.max_gpus), 0),
        reservation=_reservation(options, system, at),
        software=_one_of("software", options, SOFTWARE, first=True),
    )


def _clamped(defaults: Mapping[str, str | int], limits: PartitionOffer) -> dict[str, object]:
    """An organisation's defaults as the partition allows them: nobody is refused for what he did not choose."""
    bounds = {
        "runtime_minutes": (limits.min_runtime_minutes, limits.max_runtime_minutes),
        "nodes": (1, limits.max_nodes),
        "gpus": (0, min(limits.gpus_per_node, limits.max_gpus)),
    }
    numbers = {
        name: min(max(int(defaults[name]), least), most) for name, (least, most) in bounds.items() if name in defaults
    }
    return {"reservation": defaults.get("reservation"), **numbers}


def _one_of(field: str, options: Mapping[str, object], allowed: Iterable[str], *, first: bool = False) -> str:
    names = list(allowed)
    value = options.get(field)
    if value is None:
        if len(names) == 1 or (first and names):
            return names[0]
        raise OptionsError(field, None, "missing", f"choose one of: {_list(names)}")
    if isinstance(value, str) and value in names:
        return value
    problem = "not text" if not isinstance(value, str) else "too long" if len(value) > LONGEST else "not open to you"
    near = difflib.get_close_matches(value[:LONGEST], names, 1) if isinstance(value, str) else []
    raise OptionsError(field, value, problem, f"did you mean {near[0]}?" if near else f"choose one of: {_list(names)}")


def _number(
    field: str, options: Mapping[str, object], least: int, most: int, default: int, whose: str = "the partition's"
) -> int:
    value = options.get(field)
    if value is None:
        return default
    remedy = f"choose between {least} and {most}" if least < most else f"it must be {most}"
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionsError(field, value, "not a whole number", remedy)
    if not least <= value <= most:
        raise OptionsError(field, value, f"outside {whose} limits", remedy)
    return value


def _reservation(options: Mapping[str, object], system: SystemOffer, at: Placing) -> str | None:
    value = options.get("reservation")
    if value is None or value == "":
        return None
    named = [name for name, each in system.reservations.items() if each.is_for(at.account, at.project, at.partition)]
    there = [*system.partitions[at.partition].reservations, *named]
    if not there:
        raise OptionsError("reservation", value, "none is open to you there", "leave it out")
    return _one_of("reservation", options, there)


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")


def shown(value: object) -> str:
    """A value as it may stand in one line of an answer or a log: quoted, short, without control characters."""
    text = ascii(value) if not isinstance(value, str) else repr(value)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= SHOWN else text[: SHOWN - 4] + " ..."
