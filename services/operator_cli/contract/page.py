"""The contract as one HTML page that needs nothing else: every message with its fields, sample and senders. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import msgspec

from schemas import asyncapi
from schemas.base import Message, event_name, message_type
from schemas.publication import sample_of, schema_of
from schemas.wire import CURRENT

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { margin: 0 auto; max-width: 70rem; padding: 1rem 2rem }
nav { columns: 16rem; margin-bottom: 2rem }
section { border-top: 1px solid #8888; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid #8884; padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top }
code, pre { font: 13px/1.4 ui-monospace, monospace }
pre { background: #8881; overflow-x: auto; padding: .75rem }
"""


def page() -> str:
    """The whole page."""
    channels = asyncapi.document()["channels"]
    parts = [f'<a href="#{message_type(each)}">{message_type(each)}</a><br>' for each in CURRENT]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><title>Farlab: messages</title>',
            f"<style>{_STYLE}</style></head><body>",
            "<h1>Messages</h1>",
            f"<nav>{''.join(parts)}</nav>",
            *(_section(each, channels[event_name(each)]) for each in CURRENT),
            "</body></html>",
            "",
        ]
    )


def _section(message: type[Message], channel: dict[str, Any]) -> str:
    name = message_type(message)
    sample = msgspec.json.format(msgspec.json.encode(sample_of(message)), indent=2).decode()
    said = [service for service, names in asyncapi.SENDERS.items() if event_name(message) in names]
    heard = [service for service, names in asyncapi.READERS.items() if event_name(message) in names]
    return "\n".join(
        [
            f'<section id="{name}"><h2>{name}</h2>',
            f"<p>{escape((message.__doc__ or '').strip())}</p>",
            f"<p>Subject <code>{escape(channel['address'])}</code>. Appended by {_words(said)}. "
            f"Acted on by {_words(heard)}.</p>",
            f"<table><tr><th>field</th><th>type</th><th>must be there</th></tr>{''.join(_rows(message))}</table>",
            f"<details><summary>A sample</summary><pre>{escape(sample)}</pre></details></section>",
        ]
    )


def _rows(message: type[Message]) -> Iterable[str]:
    schema = schema_of(message)
    for field, kind in schema["properties"].items():
        required = "yes" if field in schema["required"] else ""
        yield f"<tr><td><code>{escape(field)}</code></td><td>{escape(_kind(kind))}</td><td>{required}</td></tr>"


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return ", ".join(str(each) for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    limits = [f"{name} {schema[name]}" for name in ("minimum", "maximum", "maxLength", "pattern") if name in schema]
    return ", ".join([str(schema.get("format", schema.get("type", "anything"))), *limits])


def _words(services: list[str]) -> str:
    return escape(", ".join(services) or "nobody")
