"""The files of a job's working directory over UNICORE's storage API. Never leaves that directory."""

from __future__ import annotations

import os
import re
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from emulators.unicore_site.refusals import RefusedError

MOST_LISTED = 50_000


def resolve(root: Path, path: str) -> Path:
    """The file a path means. Raises RefusedError when it would leave the storage, through a link or otherwise."""
    if "\0" in path:
        raise RefusedError(400, "A path holds a NUL.")
    wanted = (root / path.lstrip("/")).resolve()
    if wanted != root.resolve() and root.resolve() not in wanted.parents:
        raise RefusedError(403, f"Path {path!r} leaves the storage.")
    return wanted


def properties(file: Path) -> dict[str, Any]:
    """What UNICORE tells of a file or directory. Raises FileNotFoundError."""
    status = file.stat()
    return {
        "isDirectory": stat.S_ISDIR(status.st_mode),
        "size": status.st_size,
        "lastAccessed": datetime.fromtimestamp(status.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S%z"),
        "permissions": stat.filemode(status.st_mode)[1:4],
        "owner": str(status.st_uid),
        "group": str(status.st_gid),
    }


def get(request: web.Request, root: Path, path: str) -> web.Response:
    """A directory listing or properties as JSON, or content, all of it or the range asked for."""
    _prepared(root, f"Error listing '{path}'")
    file = resolve(root, path)
    wants_content = "application/octet-stream" in request.headers.get("Accept", "*/*")
    try:
        if file.is_dir():
            if wants_content:
                raise RefusedError(406, f"{path} is a directory.")
            return web.json_response(
                {**properties(file), "content": _content(request, root.resolve(), file), "metadata": {}, "_links": {}}
            )
        if wants_content:
            return _ranged(request.headers.get("Range"), file.read_bytes())
        return web.json_response({**properties(file), "metadata": {}, "_links": {}}, headers={"Accept-Ranges": "bytes"})
    except FileNotFoundError:
        raise RefusedError(404, "") from None


def _prepared(root: Path, what: str) -> None:
    """UNICORE/X makes a job's directory after it has answered the create, and is surprised that it is not there."""
    if not root.exists():
        raise RefusedError(500, f"{what}: java.lang.NullPointerException (no further message available)")


def _content(request: web.Request, root: Path, folder: Path) -> dict[str, dict[str, Any]]:
    try:
        offset, number = int(request.query.get("offset", "0")), int(request.query.get("num", str(MOST_LISTED)))
    except ValueError:
        raise RefusedError(404, "offset and num are numbers.") from None
    listed = {}
    for name in sorted(os.listdir(folder))[offset : offset + number]:  # noqa: PTH208
        try:
            about = properties(folder / name)
        except OSError:  # gone meanwhile, or a link to nowhere
            continue
        listed["/" + str((folder / name).relative_to(root)) + ("/" if about["isDirectory"] else "")] = about
    return listed


def _ranged(wanted: str | None, content: bytes) -> web.Response:
    """Ranges as UNICORE/X 11 reads them: one that begins after the end is empty. UNICORE/X 10 never answers it."""
    if wanted is None:
        return web.Response(body=content, content_type="application/octet-stream")
    match = re.fullmatch(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", wanted)
    if match is None:
        raise RefusedError(416, f"Range header '{wanted}' cannot be parsed")
    first = int(match[1]) if match[1] else len(content) - int(match[3])
    last = int(match[2]) if match[2] else len(content) - 1
    if first < 0 or (match[2] and last < first):
        raise RefusedError(416, f"Range {wanted} lies outside the file's {len(content)} bytes.")
    return web.Response(body=content[first : last + 1], status=206, content_type="application/octet-stream")


async def put(request: web.Request, root: Path, path: str) -> web.Response:
    """Writes a file, readable by its owner only, with the directories above it; JSON changes its permissions."""
    file = resolve(root, path)
    if "Content-Type" not in request.headers:
        raise RefusedError(415, "")
    _prepared(root, f"Error uploading to '{path}'")
    if request.content_type == "application/json":
        return _change(file, await json_object(request))
    content = await request.read()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    file.write_bytes(content)
    return web.Response(status=204)


def _change(file: Path, wanted: dict[str, Any]) -> web.Response:
    letters = str(wanted.get("permissions", wanted.get("unixPermissions", "")))
    if not file.exists():
        raise RefusedError(404, "")
    try:
        change_permissions(file, letters)
    except RefusedError as error:
        return web.json_response({"permissions": f"FAILED: {error.message}"})
    return web.json_response({"permissions": "OK"})


def change_permissions(file: Path, letters: str) -> None:
    """Sets a file's permissions from letters such as `rw-r-----`. Raises RefusedError."""
    if not re.fullmatch(r"([r-][w-][x-]){1,3}", letters):
        raise RefusedError(400, f"Illegal permissions string <{letters}>")
    file.chmod(int("".join("0" if letter == "-" else "1" for letter in letters.ljust(9, "-")), 2))


def mkdir(root: Path, path: str) -> web.Response:
    """Makes a directory with those above it."""
    resolve(root, path).mkdir(parents=True, exist_ok=True, mode=0o700)
    return web.Response(status=201)


def delete(root: Path, path: str) -> web.Response:
    """Removes a file or a directory with all in it."""
    file = resolve(root, path)
    if not file.exists():
        raise RefusedError(404, "")
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink()
    return web.Response(status=204)


async def json_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in a body. Raises RefusedError."""
    try:
        return msgspec.json.decode(await request.read(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RefusedError(400, f"The body is not a JSON object: {error}") from None
