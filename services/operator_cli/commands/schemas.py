"""`farlab schemas`: the contract between the parts, and what an upgrade would change in it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from schemas import asyncapi, publication
from schemas.base import Message, event_name, message_type
from schemas.publication import sample_of, schema_of
from schemas.wire import CURRENT
from services.operator_cli.commands.context import JsonOption
from services.operator_cli.contract.differences import INSTALLED, breaking, changes, schemas_at
from services.operator_cli.contract.page import page
from services.operator_cli.output import checked, console, fail, print_json, print_table

app = typer.Typer(help="The messages of the log.", no_args_is_help=True)

Format = Literal["json-schema", "asyncapi", "html"]


@app.command("list")
def list_schemas(as_json: JsonOption = False) -> None:
    """List every message of this build."""
    rows = [(message_type(each), (each.__doc__ or "").strip().splitlines()[0]) for each in CURRENT]
    if as_json:
        print_json([{"type": name, "meaning": meaning} for name, meaning in rows])
        return
    print_table(f"{len(rows)} messages", ("type", "meaning"), rows)


@app.command()
def show(
    message: Annotated[str, typer.Argument(help="a type, such as job-created or job-created.v1")],
    sample: Annotated[bool, typer.Option("--sample", help="an example instead of the schema")] = False,
) -> None:
    """Print one message's JSON Schema, or a sample."""
    found = _named(message)
    shown = sample_of(found) if sample else schema_of(found)
    print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())


@app.command()
def check() -> None:
    """Check that what was published is whole, and that this build still reads all of it."""
    found = publication.problems(publication.FOLDER)
    if found:
        fail(f"{len(found)} problems: {' | '.join(found)}", 1)
    count = len(publication.manifest(publication.FOLDER)) // 2
    console.print(f"{count} message versions were ever published; this build reads all of them", markup=False)


@app.command()
def export(
    to: Annotated[Path, typer.Option("--to", help="the folder to write into")],
    form: Annotated[Format, typer.Option("--format", help="what to write")] = "json-schema",
) -> None:
    """Write the contract for other programs and people."""
    files = _files(form)
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (to / name).write_bytes(content)
    except OSError as error:
        fail(f"{to}: cannot be written: {error.strerror}; name a folder of your own")
    console.print(f"{len(files)} files in {to}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help=f"a folder of exported schemas, or {INSTALLED!r}")],
    new: Annotated[str, typer.Argument(help=f"a folder of exported schemas, or {INSTALLED!r}")] = INSTALLED,
    as_json: JsonOption = False,
) -> None:
    """Say what an upgrade changes. Exit code 1 when the new build could not read what the old one wrote."""
    before, after = checked(lambda: schemas_at(old)), checked(lambda: schemas_at(new))
    found = changes(before, after)
    if as_json:
        print_json(found)
    else:
        rows = [
            (each.type, each.kind, "; ".join(each.new_readers) or "yes", "; ".join(each.old_readers) or "yes")
            for each in found
        ]
        print_table(
            f"{len(found)} differences",
            ("message", "what", "new build reads old messages", "old build reads new messages"),
            rows,
        )
    if breaking(found):
        raise typer.Exit(1)


def _files(form: Format) -> dict[str, bytes]:
    match form:
        case "json-schema":
            return publication.files()
        case "asyncapi":
            return {"asyncapi.json": msgspec.json.format(msgspec.json.encode(asyncapi.document()), indent=2)}
        case "html":
            return {"messages.html": page().encode()}


def _named(wanted: str) -> type[Message]:
    names = {message_type(each): each for each in CURRENT} | {event_name(each): each for each in CURRENT}
    if wanted not in names:
        close = difflib.get_close_matches(wanted, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else "`farlab schemas list` lists them"
        fail(f"there is no message {wanted!r}; {hint}")
    return names[wanted]
