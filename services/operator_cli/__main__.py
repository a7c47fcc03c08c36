"""The command `farlab`: its families of commands, put together."""

from __future__ import annotations

import typer

from services.operator_cli.commands import access, act, configuration, installation, replay, see

app = typer.Typer(
    name="farlab",
    help="Run and watch Farlab: JupyterLab on supercomputers and clouds.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
for family in (installation, see, replay, act):
    app.add_typer(family.app)
app.add_typer(access.access_app, name="access")
app.add_typer(access.vo_app, name="vo")
app.add_typer(configuration.app, name="config")


def main() -> None:
    """The entry point `farlab`."""
    app()


if __name__ == "__main__":
    main()
