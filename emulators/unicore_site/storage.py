"""The files of a job's working directory over UNICORE's storage API. Never leaves that directory."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from emulators.unicore_site.identity import RefusedError


def resolve(root: Path, path: str) -> Path:
    """The file a path means. Raises RefusedError when it would leave the storage."""
    wanted = (root / path.lstrip("/")).resolve()
    if wanted != root.resolve() and root.resolve() not in wanted.parents:
        raise RefusedError(403, f"Path {path!r} leaves the storage.")
    return wanted


def properties(root: Path, file: Path) -> dict[str, Any]:
    """What UNICORE tells of a file or directory."""
    status = file.stat()
    modes = "".join(
        letter if status.st_mode & bit else "-" for letter, bit in (("r", 0o400), ("w", 0o200), ("x", 0o100))
    )
    name = "/" + str(file.relative_to(root.resolve()))
    return {
        "isDirectory": file.is_dir(),
        "size": status.st_size,
        "lastAccessed": datetime.fromtimestamp(status.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S%z"),
        "permissions": modes,
        "unixPermissions": modes + "------",
        "owner": "me",
        **({"content": {}} if file.is_dir() else {}),
        "path": "/" if name == "/." else name,
    }


async def get(request: web.Request, root: Path, path: str) -> web.StreamResponse:
    """A directory listing or properties as JSON, or content, all of it or the range asked for."""
    file = resolve(root, path)
    if not file.exists():
        raise RefusedError(404, f"No such file or directory: {path}")
    wants_content = "application/octet-stream" in request.headers.get("Accept", "*/*")
    if file.is_dir() or not wants_content:
        answer = properties(root, file)
        if file.is_dir():
            inside = sorted(file.iterdir())[: int(request.query.get("num", "50000"))]
            listed = {properties(root, each)["path"]: properties(root, each) for each in inside}
            answer["content"] = {
                name + ("/" if each["isDirectory"] else ""): {key: each[key] for key in each if key != "content"}
                for name, each in listed.items()
            }
        return web.json_response(answer)
    content = file.read_bytes()
    if (ranged := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))) is not None:
        first, last = int(ranged[1]), int(ranged[2]) if ranged[2] else len(content) - 1
        if first >= len(content):
            raise RefusedError(416, f"Range {request.headers['Range']} lies outside the file's {len(content)} bytes.")
        part = content[first : last + 1]
        headers = {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"}
        return web.Response(body=part, status=206, headers=headers, content_type="application/octet-stream")
    return web.Response(body=content, content_type="application/octet-stream")


async def put(request: web.Request, root: Path, path: str) -> web.Response:
    """Writes a file, readable by its owner only, with the directories above it; JSON changes its permissions."""
    file = resolve(root, path)
    if request.content_type == "application/json":
        return _permissions(file, path, await request.json())
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = await request.read()
    file.touch(mode=0o600)
    file.write_bytes(content)
    return web.Response(status=204)


def _permissions(file: Path, path: str, wanted: dict[str, Any]) -> web.Response:
    letters = str(wanted.get("permissions", wanted.get("unixPermissions", "")))
    if not file.exists():
        raise RefusedError(404, f"No such file or directory: {path}")
    if not re.fullmatch(r"([r-][w-][x-]){1,3}", letters):
        return web.json_response({"permissions": f"FAILED: Illegal permissions string <{letters}>"})
    bits = "".join("0" if letter == "-" else "1" for letter in letters.ljust(9, "-"))
    file.chmod(int(bits, 2))
    return web.json_response({"permissions": "OK"})


async def mkdir(root: Path, path: str) -> web.Response:
    """Makes a directory."""
    resolve(root, path).mkdir(parents=True, exist_ok=True, mode=0o700)
    return web.Response(status=201)


async def delete(root: Path, path: str) -> web.Response:
    """Removes a file or a directory with all in it."""
    file = resolve(root, path)
    if not file.exists():
        raise RefusedError(404, f"No such file or directory: {path}")
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink()
    return web.Response(status=204)
