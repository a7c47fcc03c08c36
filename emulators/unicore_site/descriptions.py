"""Job descriptions as UNICORE reads them: what they ask for, and what a site objects to. Pure; runs nothing."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from emulators.unicore_site.configuration import Queue

Words = str | list[str]
KNOWN_RESOURCES = {
    *("Queue", "Nodes", "Runtime", "CPUs", "TotalCPUs", "CPUsPerNode", "GPUs", "GPUS", "GPUsPerNode"),
    *("Memory", "MemoryPerNode", "Reservation", "NodeConstraints", "QoS", "Exclusive", "Project"),
}


class DescriptionError(ValueError):
    """The description, or what it asks for, is not one that the site takes."""


class Import(msgspec.Struct, frozen=True, rename="pascal"):
    """A file to be staged in; only data in the description itself is."""

    to: str
    from_: str = msgspec.field(name="From", default="inline://dummy")
    data: Words = ""
    mode: str = "overwrite"
    permissions: str = ""
    fail_on_error: Any = True

    @property
    def content(self) -> str:
        """The data; UNICORE takes lines too."""
        return self.data if isinstance(self.data, str) else "\n".join(self.data) + "\n"


class Notifications(msgspec.Struct, frozen=True):
    """Where a job's changes are told, for which statuses (None: the usual) and which states of the batch system."""

    url: str = msgspec.field(name="URL", default="")
    status: list[str] | None = None
    bss_status: list[str] = msgspec.field(name="bssStatus", default_factory=list)


class Description(msgspec.Struct, frozen=True, rename="pascal"):
    """A job description, as far as the emulated site understands it."""

    name: str = "UNICORE_Job"
    executable: str = ""
    arguments: list[str | int | float | bool] = []
    environment: dict[str, str | int | float | bool] | list[str] = msgspec.field(default_factory=dict)
    parameters: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    stdin: str | None = None
    stdout: str = "stdout"
    stderr: str = "stderr"
    imports: list[Import] = []
    resources: dict[str, str | int | float | bool | None] = msgspec.field(default_factory=dict)
    tags: Words = []
    umask: str = "077"
    project: str | None = None
    job_type: str = msgspec.field(name="Job type", default="BATCH")
    client_stage_in: str | bool = msgspec.field(name="haveClientStageIn", default=False)
    notification: str = ""
    notification_settings: Notifications | None = None

    @property
    def starts_by_itself(self) -> bool:
        """Whether the job goes to the queue without being told to."""
        return str(self.client_stage_in).lower() != "true"

    @property
    def words(self) -> list[str]:
        """The tags; UNICORE takes them as a list or separated by blanks, plus signs and commas."""
        return words_in(self.tags)

    @property
    def variables(self) -> dict[str, str]:
        """The environment the description sets, its parameters included."""
        named = self.environment
        if isinstance(named, list):
            named = {name.strip(): value.strip() for name, _, value in (each.partition("=") for each in named)}
        return {key: _text(value) for key, value in {**self.parameters, **named}.items()}

    @property
    def command(self) -> list[str]:
        """What is run: UNICORE writes program and arguments into a shell script as they are."""
        return ["/bin/bash", "-c", " ".join([self.executable or "/bin/true", *map(_text, self.arguments)])]

    @property
    def notifies(self) -> Notifications:
        """Where the job's changes are told."""
        settings = self.notification_settings
        return settings if settings is not None and settings.url else Notifications(url=self.notification)

    def number(self, *names: str) -> int:
        """A resource that is counted, under the first of its names that is asked for; 0 when none is."""
        for name in names:
            if (value := self.resources.get(name)) is not None:
                if not re.fullmatch(r"\d{1,18}", str(value)):
                    raise DescriptionError(f"Invalid resources: {name}={value} is not a number.")
                return int(value)
        return 0

    def asked(self, queues: dict[str, Queue]) -> Asked:
        """What the job gets of the site. Raises DescriptionError when a queue does not give it."""
        name = str(self.resources.get("Queue") or next(iter(queues)))
        if (queue := queues.get(name)) is None:
            raise DescriptionError(f"No such queue: {name}")
        if unknown := sorted(set(self.resources) - KNOWN_RESOURCES):
            raise DescriptionError(f"Resource <{unknown[0]}> is not available for partition <{name}>")
        if self.job_type.upper() not in ("BATCH", "NORMAL"):
            raise DescriptionError(f"Job type <{self.job_type}> is not available at this emulated site.")
        nodes = self.number("Nodes") if "Nodes" in self.resources else 1
        gpus = max(self.number("GPUsPerNode"), -(-self.number("GPUs", "GPUS") // max(nodes, 1)))
        try:
            runtime_seconds = seconds(str(self.resources.get("Runtime") or min(3600, queue.max_runtime_seconds)))
        except ValueError as error:
            raise DescriptionError(f"Invalid resources: {error}") from None
        for title, value, low, high in (
            ("Nodes", nodes, 1, queue.max_nodes),
            ("GPUsPerNode", gpus, 0, queue.gpus_per_node),
            ("Runtime", runtime_seconds, 1, queue.max_runtime_seconds),
        ):
            if not low <= value <= high:
                raise DescriptionError(f"Resource request <{title}={value:g}> is out of range for queue {name}.")
        return Asked(name, nodes, runtime_seconds)


class Asked(msgspec.Struct, frozen=True):
    """What a job asks of the batch system, within its limits."""

    queue: str
    nodes: int
    runtime_seconds: float


def read(document: Any) -> Description:
    """The description in a JSON value. Raises DescriptionError with the place of what is wrong."""
    if not isinstance(document, dict):
        raise DescriptionError("The job description is not a JSON object.")
    if "umask" in document:
        document = {"Umask": document["umask"], **document}
    try:
        description = msgspec.convert(document, Description)
    except msgspec.ValidationError as error:
        raise DescriptionError(f"The job description is not valid: {error}") from None
    if not re.fullmatch(r"[0-7]{3,4}", description.umask):
        raise DescriptionError(f"The job description is not valid: umask {description.umask!r}")
    if any("\0" in word for word in (*description.command, *description.variables, *description.variables.values())):
        raise DescriptionError("The job description is not valid: a word holds a NUL.")
    return description


def words_in(tags: Words) -> list[str]:
    """Tags from a list, or from words separated as UNICORE separates them."""
    return tags if isinstance(tags, list) else [word for word in re.split(r"[ +,]", tags) if word]


def seconds(runtime: str) -> float:
    """A UNICORE duration such as `90`, `30min`, `2h` or `1d` in seconds. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*(s|sec|m|min|h|d)?\s*", runtime)
    if match is None:
        raise ValueError(f"{runtime!r} is not a duration")
    factor = {None: 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}[match[2]]
    return float(int(match[1]) * factor)


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
