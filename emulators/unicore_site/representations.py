"""The JSON documents of UNICORE's REST API: base, jobs, lists, storages. Pure; changes nothing."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from emulators.unicore_site.configuration import SiteConfiguration, SiteUser
from emulators.unicore_site.identity import Caller
from emulators.unicore_site.jobs import Job

Document = dict[str, Any]
VERSION = "11.0.0"
ACTIONS = ("start", "abort", "restart")
COLLECTIONS = ("jobs", "storages", "certificate")


def base(
    url: str, configuration: SiteConfiguration, caller: Caller, user: SiteUser | None, server_dn: str, disabled: str
) -> Document:
    """The base resource, for anybody; `disabled` are the site's words when it takes no jobs."""
    role = "anonymous" if user is None else "user"
    login = {} if user is None else {"availableUIDs": user.uids, "availableGroups": user.groups}
    return {
        "client": {
            "dn": caller.dn,
            "role": {"selected": role, "availableRoles": [role]},
            "xlogin": {**login, "UID": caller.uid, "group": caller.group} if login else {},
        },
        "server": {
            "siteName": configuration.name,
            "version": f"{VERSION}-emulated",
            "credential": {"dn": server_dn},
            "externalConnections": {},
            "jobSubmission": {"enabled": not disabled, "message": disabled},
        },
        "_links": {name: {"href": f"{url}/{name}"} for name in COLLECTIONS},
    }


def page(url: str, name: str, ids: list[str], *, offset: int, number: int) -> Document:
    """A part of a list with links to the parts around it, which forget the tags, as UNICORE/X makes them."""

    def link(first: int, count: int) -> dict[str, str]:
        return {"href": f"{url}/{name}/?{urlencode({'offset': first, 'num': count})}"}

    links = {"self": link(offset, number)}
    if offset + number < len(ids):
        links["next"] = link(offset + number, min(number, len(ids) - offset - number))
    if offset > 0:
        links["previous"] = link(max(offset - number, 0), number)
    return {name: [f"{url}/{name}/{each}" for each in ids[offset : offset + number]], "_links": links}


def job(url: str, each: Job) -> Document:
    """All properties of a job."""
    asks, href = each.asks, f"{url}/jobs/{each.id}"
    links = {
        "self": href,
        "details": f"{href}/details",
        "submitted": f"{href}/submitted",
        "forwarding": f"{href}/forward-port",
        "workingDirectory": f"{url}/storages/{storage_name(each)}",
        **{f"action:{action}": f"{href}/actions/{action}" for action in ACTIONS},
    }
    return {
        "status": each.status,
        "statusMessage": each.status_message,
        **({"exitCode": str(each.exit_code)} if each.exit_code is not None else {}),
        "queue": each.queue or "N/A",
        "batchSystemID": each.batch_id,
        "submissionTime": instant(each.submitted_at),
        "terminationTime": instant(each.terminates_at),
        "submissionPreferences": {"uid": each.uid, "group": each.group},
        "consumedTime": {},
        "name": asks.name,
        "owner": each.owner,
        "acl": [],
        "tags": each.tags,
        "log": each.log,
        "resourceStatus": "READY",
        "resourceStatusMessage": "N/A",
        "jobType": "BATCH",
        "_links": {name: {"href": link} for name, link in links.items()},
    }


def details(each: Job) -> Document:
    """What the batch system says of a job, in Slurm's keys and with its place in the queue."""
    reason = ("Priority" if each.place > 1 else "Resources") if each.place else "None"
    return {
        "JobId": each.batch_id,
        "JobState": each.bss_status,
        "Reason": reason,
        "Partition": each.queue,
        "NodeList": each.node or "(null)",
        **({"QueuePosition": each.place} if each.place else {}),
    }


def storage(url: str, each: Job) -> Document:
    """A job's working directory as a storage."""
    href = f"{url}/storages/{storage_name(each)}"
    return {
        "resourceStatus": "READY",
        "owner": each.owner,
        "umask": each.asks.umask,
        "description": "Job directory",
        "protocols": ["BFT"],
        "tags": [],
        "_links": {
            "self": {"href": href},
            "files": {"href": f"{href}/files"},
            "job": {"href": f"{url}/jobs/{each.id}"},
        },
    }


def storage_name(each: Job) -> str:
    """The id of the storage of a job's working directory."""
    return f"{each.id}-uspace"


def chosen(document: Document, fields: str) -> Document:
    """The properties asked for: those named, or all but those that are named with an exclamation mark."""
    names = [name for name in re.split(r"[ +,]", fields) if name]
    without = {name[1:] for name in names if name.startswith("!")}
    wanted = {name for name in names if not name.startswith("!")}
    return {key: value for key, value in document.items() if key not in without and (not wanted or key in wanted)}


def instant(epoch_seconds: float) -> str:
    """A time as UNICORE writes it: ISO 8601 to the second with a zone, so that times of one second are equal."""
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S%z")
