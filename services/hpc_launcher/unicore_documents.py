"""UNICORE's JSON documents to and from the launcher's words. Sends nothing.

Keys and states are those of UNICORE/X 10 (job description, job properties, batch system details).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.hpc_launcher.ports import (
    Configuring,
    Finished,
    Inert,
    JobDescription,
    JobReport,
    Queued,
    Running,
    Unknown,
)

REPORTED = "status,statusMessage,exitCode,log,_links"
"""The job properties a report needs; the others (ACL, consumed times, preferences) cost the site time."""

SITE_LOG_BYTES = 4096
WORDS_CHARACTERS = 300
NOTIFIED_STATUS = ["QUEUED", "RUNNING", "SUCCESSFUL", "FAILED"]
NOTIFIED_BATCH_STATUS = ["PENDING", "CONFIGURING"]
_JOB_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_RAW_DETAIL = re.compile(r"(\w+)=(\S+)")
_NO_REASON = ("", "none", "n/a", "(null)")


def job_document(description: JobDescription) -> dict[str, Any]:
    """The job as UNICORE takes it, inert (`haveClientStageIn`) and with files only its owner may read."""
    document: dict[str, Any] = {
        "Name": description.name,
        "Tags": description.marks.words,
        "haveClientStageIn": "true",
        "Umask": "077",
        "Executable": description.executable,
        "Arguments": list(description.arguments),
        "Imports": [
            {"From": "inline://dummy", "To": name, "Data": text} for name, text in sorted(description.files.items())
        ],
        "Resources": _resources(description),
        "Project": description.project,
    }
    if description.notification_url:
        document["NotificationSettings"] = {
            "URL": description.notification_url,
            "status": NOTIFIED_STATUS,
            "bssStatus": NOTIFIED_BATCH_STATUS,
        }
    return document


def distinguished_name(about: Mapping[str, Any]) -> str:
    """Whom the site takes the caller for, by its base resource; empty when it does not say."""
    client = about.get("client")
    return str(client.get("dn", "")) if isinstance(client, dict) else ""


def same_name(one: str, other: str) -> bool:
    """Whether two distinguished names are one: their case and the blanks between their parts do not count."""
    return _parts(one) == _parts(other)


def _parts(name: str) -> list[str]:
    return [part.strip().casefold() for part in name.split(",")]


def _resources(description: JobDescription) -> dict[str, str]:
    """UNICORE counts cores, GPUs and memory per node, the user in all."""
    asked = description.resources
    per_node = {
        "CPUsPerNode": asked.cores,
        "GPUsPerNode": asked.gpus or None,
        "MemoryPerNode": asked.memory_bytes,
    }
    return {
        "Queue": description.partition,
        "Nodes": str(asked.nodes),
        "Runtime": str(asked.runtime_seconds),
        **{name: str(-(-amount // asked.nodes)) for name, amount in per_node.items() if amount is not None},
        **({"Reservation": asked.reservation} if asked.reservation else {}),
    }


def job_id(href: object) -> str | None:
    """The id in a job's address, which is all that is believed of it: the host in it may be an internal one."""
    last = str(href).rstrip("/").rpartition("/")[2]
    return last if _JOB_ID.fullmatch(last) else None


def storage_id(properties: Mapping[str, Any]) -> str | None:
    """The id of the job's working directory, from the job's properties."""
    links = properties.get("_links")
    link = links.get("workingDirectory") if isinstance(links, dict) else None
    return job_id(link.get("href")) if isinstance(link, dict) else None


def report(properties: Mapping[str, Any], details: Mapping[str, Any] | None = None) -> JobReport:
    """What a job's properties, and the batch system's details of a queued one, say."""
    words = _words(properties.get("statusMessage"))
    match properties.get("status"):
        case "READY":
            return Inert()
        case "STAGINGIN":
            return Queued(words=words or "Files are being staged in.")
        case "QUEUED":
            return _queued(details or {}, words)
        case "RUNNING" | "STAGINGOUT":
            return Running()
        case "SUCCESSFUL" | "FAILED" as status:
            exit_code = _number(properties.get("exitCode"))
            # UNICORE/X with its embedded TSI calls a job successful that was killed before it could say how it ended.
            killed = status == "SUCCESSFUL" and exit_code is None
            return Finished(
                succeeded=status == "SUCCESSFUL" and not killed,
                exit_code=exit_code,
                words=words or ("it was ended from outside and left no exit code" if killed else ""),
                log=_last_lines(properties.get("log")),
            )
        case other:
            return Unknown(f"The site reports the job as {_words(other) or 'nothing'}.")


def _queued(details: Mapping[str, Any], words: str) -> JobReport:
    """A queued job in the batch system's words: Slurm's keys, as an object or as `scontrol show job` prints them."""
    if isinstance(raw := details.get("rawDetailsData"), str):
        details = dict(_RAW_DETAIL.findall(raw))
    state = str(details.get("JobState", "")).upper()
    reason = _words(details.get("Reason"))
    if reason.lower() in _NO_REASON:
        reason = ""
    if state.startswith("CONFIGURING"):
        return Configuring(words)
    start = str(details.get("StartTime", ""))
    expected = f"expected to start at {_words(start)}, the site's time" if re.match(r"\d{4}-", start) else ""
    said = "; ".join(each for each in (f"waiting: {reason}" if reason else "", expected, words) if each)
    place = _number(details.get("QueuePosition"))
    return Queued(
        place_in_queue=place if place is not None and place > 0 else None,
        estimated_start=_instant(start),
        words=said[:WORDS_CHARACTERS],
    )


def _instant(text: str) -> datetime | None:
    """A time with its zone; Slurm's own times have none, and to guess one would mislead."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else None


def _number(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None


def _words(value: object) -> str:
    return " ".join(str(value).split())[:WORDS_CHARACTERS] if value is not None else ""


def _last_lines(log: object) -> str:
    lines = [str(line) for line in log] if isinstance(log, list) else []
    return "\n".join(lines).encode()[-SITE_LOG_BYTES:].decode(errors="replace")
