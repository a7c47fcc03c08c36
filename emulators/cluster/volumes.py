"""A pod's files and words: volumes become folders, environment and arguments are filled in. Runs nothing.

A process has no mount namespace of its own: where a word of its command, arguments or environment names a path under a
mount, the pod's own folder is put in front of it.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

from emulators.cluster.configuration import Image
from emulators.cluster.kinds import Object, field_of
from emulators.cluster.store import Store

REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


class MissingError(Exception):
    """A Secret, ConfigMap or claim that the pod names is not there."""


class PodFiles:
    """The folder of one pod."""

    def __init__(self, folder: Path, claims: Path, store: Store, pod: Object) -> None:
        self._store = store
        self._claims = claims
        self._namespace: str = pod["metadata"]["namespace"]
        self.folder = folder / str(pod["metadata"]["uid"])
        self._volumes: dict[str, Path] = {}

    def mount(self, pod: Object) -> None:
        """Makes the volumes' folders. Raises MissingError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for volume in pod["spec"].get("volumes") or []:
            self._volumes[volume["name"]] = self._volume(volume)

    def _volume(self, volume: dict[str, Any]) -> Path:
        if claim := volume.get("persistentVolumeClaim"):
            if self._store.find("persistentvolumeclaims", self._namespace, claim["claimName"]) is None:
                raise MissingError(f'persistentvolumeclaim "{claim["claimName"]}" not found')
            place = self._claims / self._namespace / str(claim["claimName"])
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            return place
        place = self.folder / "volumes" / str(volume["name"])
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        for source, key in (("secret", "secretName"), ("configMap", "name")):
            if source not in volume:
                continue
            told = volume[source]
            values = self._data(source, told[key], optional=told.get("optional", False))
            items = told.get("items") or [{"key": each, "path": each} for each in values]
            for item in items:
                file = place / item["path"]
                mode = item.get("mode") or told.get("defaultMode") or 0o600
                with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                    out.write(values[item["key"]])
                file.chmod(mode & 0o700)
        return place

    def _data(self, source: str, name: str, *, optional: bool) -> dict[str, bytes]:
        plural = "secrets" if source == "secret" else "configmaps"
        found = self._store.find(plural, self._namespace, name)
        if found is None:
            if optional:
                return {}
            raise MissingError(f'{source.lower()} "{name}" not found')
        data = found.get("data") or {}
        if plural == "secrets":
            return {key: base64.b64decode(value) for key, value in data.items()}
        return {key: value.encode() for key, value in data.items()}

    def environment(self, pod: Object, container: dict[str, Any], image: Image, path: list[str]) -> dict[str, str]:
        """The container's environment, its references filled in. Raises MissingError."""
        values = {
            "PATH": os.pathsep.join([*path, os.environ.get("PATH", os.defpath)]),
            "HOSTNAME": pod["metadata"]["name"],
        }
        values |= image.environment
        for each in container.get("env") or []:
            value = each.get("value")
            if value is None:
                value = self._value_from(pod, each.get("valueFrom") or {})
            values[each["name"]] = self._local(container, expanded(value, values))
        values.setdefault("HOME", str(self.folder))
        return values

    def _value_from(self, pod: Object, source: dict[str, Any]) -> str:
        if field := source.get("fieldRef"):
            return field_of(pod, field["fieldPath"])
        for key, kind in (("secretKeyRef", "secret"), ("configMapKeyRef", "configMap")):
            if reference := source.get(key):
                values = self._data(kind, reference["name"], optional=reference.get("optional", False))
                return values.get(reference["key"], b"").decode()
        return ""

    def command(self, container: dict[str, Any], image: Image, environment: dict[str, str]) -> list[str]:
        """What the container runs."""
        words = [*(container.get("command") or image.entrypoint), *(container.get("args") or [])]
        return [self._local(container, expanded(word, environment)) for word in words]

    def working_folder(self, container: dict[str, Any]) -> Path:
        """Where it begins; the pod's folder unless a mount is named."""
        place = Path(self._local(container, container.get("workingDir") or str(self.folder)))
        return place if place.is_dir() else self.folder

    def _local(self, container: dict[str, Any], word: str) -> str:
        mounts = sorted(container.get("volumeMounts") or [], key=lambda each: -len(each["mountPath"]))
        if not mounts:
            return word
        places = {each["mountPath"].rstrip("/"): each for each in mounts}
        pattern = "|".join(re.escape(path) for path in places)
        return re.sub(
            rf"(?<![A-Za-z0-9_./-])({pattern})(?=[/:\s\"']|$)",
            lambda found: str(self._volumes[places[found[1]]["name"]] / (places[found[1]].get("subPath") or "")).rstrip(
                "/"
            ),
            word,
        )


def expanded(word: str, values: dict[str, str]) -> str:
    """A word with its `$(NAME)` filled in where the name is known."""
    return REFERENCE.sub(lambda found: values.get(found[1], found[0]), word)
