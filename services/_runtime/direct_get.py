"""Reads many stored messages of a stream in few round trips: Direct Get batches (NATS ADR-31). Decodes nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from nats.aio.client import Client

from services._runtime.errors import TransientError
from services._runtime.tasks import heeding_cancel

BATCH = 1000
ANSWER_SECONDS = 5.0


class Stored(msgspec.Struct, frozen=True):
    """A message as the server keeps it; `headers` are its own, and `Nats-Subject`, `Nats-Time-Stamp` of the server."""

    sequence: int
    headers: dict[str, str]
    body: bytes


async def stored(client: Client, stream: str, subject_filter: str) -> AsyncIterator[Stored]:
    """Every message the filter selects, oldest first.

    Raises TransientError for a refusal, nats.errors.Error and TimeoutError where no answer comes.
    """
    begin = 1
    while begin:
        async for message, begins in _batch(client, stream, subject_filter, begin):
            begin = begins
            if message is not None:
                yield message


async def _batch(
    client: Client, stream: str, subject_filter: str, begin: int
) -> AsyncIterator[tuple[Stored | None, int]]:
    """The messages of one batch, and last where the next begins, 0 at the end."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    try:
        request = json.dumps({"seq": begin, "batch": BATCH, "next_by_subj": subject_filter}).encode()
        await client.publish(f"$JS.API.DIRECT.GET.{stream}", request, reply=inbox)
        last = 0
        while True:
            with heeding_cancel():
                answer = await subscription.next_msg(timeout=ANSWER_SECONDS)
            headers: dict[str, Any] = dict(answer.headers or {})
            status = headers.get("Status")
            if status == "404":
                yield None, 0
                return
            if status is not None:
                if status != "204":
                    raise TransientError(f"Direct Get of {subject_filter}: {status} {headers.get('Description', '')}")
                yield None, last + 1 if int(headers.get("Nats-Num-Pending", "0")) else 0
                return
            last = int(headers["Nats-Sequence"])
            yield Stored(last, headers, answer.data), begin
    finally:
        await subscription.unsubscribe()
