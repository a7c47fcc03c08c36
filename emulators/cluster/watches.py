"""Lists and watches: pages of one version, and changes after it. Changes no object."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import OrderedDict
from typing import Any

import msgspec
from aiohttp import web

from emulators.cluster.kinds import Kind, Object, Selection
from emulators.cluster.refusals import RefusedError, expired
from emulators.cluster.store import Change, Store

LISTS_KEPT = 32
CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter."
)


class Watches:
    """Answers lists and watches. `silent` lets watches say nothing at all, as a dead connection does."""

    def __init__(self, store: Store, bookmark_seconds: float) -> None:
        self._store = store
        self._bookmark_seconds = bookmark_seconds
        self._lists: OrderedDict[int, list[Object]] = OrderedDict()
        self.speaking = asyncio.Event()
        self.speaking.set()
        self.open = 0

    def page(self, kind: Kind, selection: Selection, query: Any) -> Object:
        """One page of a list. Raises RefusedError (400, 410)."""
        limit, begin = _number(query, "limit"), 0
        version, items = self._store.version, self._store.every(kind.plural)
        if token := query.get("continue", ""):
            try:
                version, begin = msgspec.json.decode(base64.urlsafe_b64decode(token), type=tuple[int, int])
            except (ValueError, msgspec.MsgspecError):
                raise RefusedError(400, "continue key is not valid") from None
            if version not in self._lists or version < self._store.compacted:
                raise expired(CONTINUE_EXPIRED)
            items = self._lists[version]
        elif limit:
            self._lists[version] = items = [found for found in items if selection.picks(found)]
            while len(self._lists) > LISTS_KEPT:
                self._lists.popitem(last=False)
        picked = [found for found in items if selection.picks(found)]
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if limit and len(picked) > begin + limit:
            token = base64.urlsafe_b64encode(msgspec.json.encode((version, begin + limit))).decode()
            metadata |= {"continue": token, "remainingItemCount": len(picked) - begin - limit}
        page = picked[begin : begin + limit] if limit else picked[begin:]
        return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata, "items": page}

    async def watch(self, request: web.Request, kind: Kind, selection: Selection) -> web.StreamResponse:
        """Tells changes until the client leaves or its time is over."""
        query = request.query
        wanted, seconds = query.get("resourceVersion", ""), _number(query, "timeoutSeconds")
        bookmarks = query.get("allowWatchBookmarks", "").lower() in ("true", "1")
        if wanted and not wanted.isdigit():
            raise RefusedError(400, f'invalid resource version "{wanted}"')
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self.open += 1
        try:
            async with asyncio.timeout(seconds or None):
                await self._tell(response, kind, selection, wanted, bookmarks=bookmarks)
        except RefusedError as refused:
            await response.write(_line("ERROR", refused.status))
        except TimeoutError:
            if bookmarks and self.speaking.is_set():
                await response.write(self._bookmark(kind))
        except ConnectionError:
            return response
        finally:
            self.open -= 1
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response

    async def _tell(
        self, response: web.StreamResponse, kind: Kind, selection: Selection, wanted: str, *, bookmarks: bool
    ) -> None:
        version = int(wanted or 0)
        if version == 0:
            version = self._store.version
            lines = [_line("ADDED", found) for found in self._store.every(kind.plural) if selection.picks(found)]
            await response.write(b"".join(lines))
        while True:
            changed = self._store.changed
            await self.speaking.wait()
            newer = self._store.since(version)
            if lines := [line for change in newer if (line := _told(change, kind, selection))]:
                await response.write(b"".join(lines))
            version = newer[-1].version if newer else version
            if changed is not self._store.changed:
                continue
            try:
                async with asyncio.timeout(self._bookmark_seconds):
                    await changed.wait()
            except TimeoutError:
                if bookmarks and self.speaking.is_set():
                    await response.write(self._bookmark(kind))

    def _bookmark(self, kind: Kind) -> bytes:
        metadata = {"resourceVersion": str(self._store.version), "creationTimestamp": None}
        return _line("BOOKMARK", {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata})


def _told(change: Change, kind: Kind, selection: Selection) -> bytes:
    """The change as this selection sees it: what begins to match is new, what ceases to is deleted."""
    if change.plural != kind.plural:
        return b""
    matches = selection.picks(change.object)
    matched = change.before is not None and selection.picks(change.before)
    if change.type == "DELETED":
        return _line("DELETED", change.object) if matches else b""
    if matches:
        return _line("MODIFIED" if matched else "ADDED", change.object)
    return _line("DELETED", change.object) if matched else b""


def _line(type_: str, found: Object) -> bytes:
    return msgspec.json.encode({"type": type_, "object": found}) + b"\n"


def _number(query: Any, name: str) -> int:
    value = query.get(name, "")
    if value and not value.isdigit():
        raise RefusedError(400, f'strconv.ParseInt: parsing "{value}": invalid syntax')
    return int(value or 0)
