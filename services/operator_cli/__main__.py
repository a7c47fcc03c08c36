"""The command `farlab`: its families of commands, put together."""

from __future__ import annotations

import typer

from services.operator_cli.commands import (
    access,
    act,
    cloud,
    configuration,
    dead_letters,
    installation,
    live,
    monitoring,
    quota,
    replay,
    schemas,
    see,
    set_up,
    streams,
    system,
    vault,
)

app = typer.Typer(
    name="farlab",
    help="Run and watch Farlab: JupyterLab on supercomputers and clouds.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
for family in (installation, see, live, replay, act, set_up, monitoring, cloud):
    app.add_typer(family.app)
for name, group in (
    ("config", configuration),
    ("system", system),
    ("quota", quota),
    ("dead-letters", dead_letters),
    ("vault", vault),
    ("schemas", schemas),
    ("streams", streams),
):
    app.add_typer(group.app, name=name)
app.add_typer(access.access_app, name="access")
app.add_typer(access.vo_app, name="vo")


def main() -> None:
    """The entry point `farlab`."""
    app()


if __name__ == "__main__":
    main()
