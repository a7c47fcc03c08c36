"""`farlab init`, `nats-config` and `doctor`: from nothing to an installation, and to somebody who can help."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from services._runtime.configuration import ConfigurationError
from services._runtime.connection import connect
from services._runtime.errors import TransientError
from services._runtime.service import utc_now
from services._runtime.settings import Configuration, load
from services._runtime.vault import make_keys, write_secret_file
from services.operator_cli.acts import dead_letters
from services.operator_cli.commands.context import DEFAULT_STATE, ConfigOption, StateOption, configuration_at, run
from services.operator_cli.histories import LogHistories
from services.operator_cli.nats_config import Cluster, Tls, make_nkeys, server_configuration
from services.operator_cli.output import console, errors, fail
from services.operator_cli.set_up import support
from services.operator_cli.set_up.first_files import Answers, files
from services.operator_cli.set_up.reach import findings
from services.operator_cli.story.row import row

app = typer.Typer()

QUESTIONS = {
    "system": "Name of the system (lower case, such as juwels)",
    "title": "Its title, as users see it",
    "url": "Address of its UNICORE/X (ends in /rest/core)",
    "issuer_dn": "Distinguished name the site trusts to act for users",
    "login_node": "Login node for SSH (host:port)",
    "networks": "Networks of its compute nodes (such as 10.11.0.0/16, several with commas)",
    "partition": "A partition of its batch system",
}


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="the folder of the installation")] = Path(),
    system: Annotated[str, typer.Option(help="name of the system, such as juwels")] = "",
    title: Annotated[str, typer.Option(help="its title")] = "",
    url: Annotated[str, typer.Option(help="its UNICORE/X, ending in /rest/core")] = "",
    issuer_dn: Annotated[str, typer.Option(help="whom the site trusts to act for users")] = "",
    login_node: Annotated[str, typer.Option(help="host:port for SSH; with --direct none")] = "",
    networks: Annotated[str, typer.Option(help="networks of compute nodes, with commas")] = "",
    partition: Annotated[str, typer.Option(help="a partition")] = "",
    direct: Annotated[bool, typer.Option("--direct", help="the hub reaches compute nodes without SSH")] = False,
    prefix: Annotated[str, typer.Option(help="first token of every subject")] = "farlab",
    hub: Annotated[str, typer.Option(help="name of this JupyterHub in the log")] = "main",
    nats: Annotated[str, typer.Option(help="address of NATS")] = "nats://127.0.0.1:4222",
) -> None:
    """Write a first farlab.toml and system file, by asking for what no option says."""
    given = {
        "system": system,
        "title": title,
        "url": url,
        "issuer_dn": issuer_dn,
        "login_node": login_node,
        "networks": networks,
        "partition": partition,
    }
    answers = _answers(given, direct, {"prefix": prefix, "hub": hub, "nats": nats})
    wanted = files(answers)
    for name in wanted:
        if (folder / name).exists():
            fail(f"{folder / name}: is there already, and is left alone; name another folder or move it away")
    try:
        for name, text in wanted.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        load(folder / "farlab.toml")
        make_keys(folder / "keys")
    except OSError as error:
        fail(f"{folder}: cannot be written: {error.strerror}; name a folder of your own")
    except ConfigurationError as error:
        fail(str(error))
    console.print(f"wrote {', '.join(wanted)} and keys/ in {folder}", markup=False, highlight=False, soft_wrap=True)
    console.print("next: farlab nats-config, then farlab config check --reach", markup=False)


def _answers(given: dict[str, str], direct: bool, rest: dict[str, str]) -> Answers:
    asked: dict[str, Any] = {"reach": "direct" if direct else "ssh", **rest}
    for name, question in QUESTIONS.items():
        if name == "login_node" and direct:
            continue
        if not given[name] and not sys.stdin.isatty():
            fail(f"--{name.replace('_', '-')} is missing, and nobody can be asked here; say it")
        asked[name] = given[name] or typer.prompt(question, err=True)
    asked["networks"] = [each.strip() for each in asked["networks"].split(",") if each.strip()]
    try:
        return msgspec.convert(asked, Answers)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`").partition("[")[0]
        fail(f"--{name.replace('_', '-')} {asked.get(name)}: {what[:1].lower()}{what[1:]}; give another")


@app.command("nats-config")
def nats_config(
    to: Annotated[Path, typer.Option("--to", help="the folder for nats.conf and the server's files")],
    host: Annotated[str, typer.Option(help="where the server listens")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="on which port", min=1, max=65535)] = 4222,
    data: Annotated[Path | None, typer.Option("--data", help="the server's own folder; without, that of --to")] = None,
    name: Annotated[str, typer.Option(help="the server's name, its own in a cluster")] = "",
    monitor: Annotated[str, typer.Option(help="HOST:PORT where it answers /healthz")] = "",
    certificate: Annotated[Path | None, typer.Option(help="its certificate, for TLS; with --key and --ca")] = None,
    key: Annotated[Path | None, typer.Option(help="the certificate's key")] = None,
    ca: Annotated[Path | None, typer.Option(help="who signed the certificates of all servers")] = None,
    route: Annotated[list[str] | None, typer.Option(help="HOST:PORT where a server hears the others; one each")] = None,
    config: ConfigOption = None,
) -> None:
    """Write a NATS server's configuration with permissions per service, and the nkeys that are missing."""

    async def work() -> int:
        configuration = configuration_at(config)
        tls = Tls(certificate, key, ca) if certificate and key and ca else None
        if tls is None and (certificate or key or ca):
            raise ConfigurationError("--certificate, --key and --ca: one is missing; say all three, or none")
        if route and not name:
            raise ConfigurationError("--name is missing: servers of a cluster are told apart by it; say one")
        named = configuration.shared.nats.nkeys_folder
        if not named:
            raise ConfigurationError(
                f'{configuration.file}: nats.nkeys_folder is missing; add nkeys_folder = "nkeys" to [nats]'
            )
        nkeys = configuration.file.parent / named
        before = {each.name for each in nkeys.glob("*.nk")} if nkeys.exists() else set()
        try:
            to.mkdir(parents=True, exist_ok=True, mode=0o700)
            text = server_configuration(
                subjects=configuration.subjects,
                hub=configuration.shared.installation.hub,
                public_keys=make_nkeys(nkeys),
                host=host,
                port=port,
                folder=(data or to).absolute(),
                sandbox=configuration.shared.installation.sandbox,
                name=name,
                monitor=monitor,
                tls=tls,
                cluster=Cluster(configuration.subjects.prefix, route) if route else None,
            )
            (to / "nats.conf").write_text(text)
        except OSError as error:
            raise ConfigurationError(f"{error.filename}: cannot be written: {error.strerror}; name another") from None
        made = sorted({each.name for each in nkeys.glob("*.nk")} - before)
        console.print(f"{to / 'nats.conf'}; nkeys made: {', '.join(made) or 'none, all are there'}", soft_wrap=True)
        console.print(f"next: nats-server -c {to / 'nats.conf'}, then farlab streams apply", markup=False)
        return 0

    run(work)


@app.command()
def doctor(
    to: Annotated[Path, typer.Option("--to", help="the file to write")] = Path("farlab-support.tar.gz"),
    state: StateOption = DEFAULT_STATE,
    config: ConfigOption = None,
) -> None:
    """Collect what support needs, without people, secrets and addresses. Sends nothing."""

    async def work() -> int:
        configuration = configuration_at(config)
        found = await findings(configuration)
        for each in found:
            if each.problem:
                errors.print(f"{each.asked}: {each.problem}", markup=False, highlight=False, soft_wrap=True)
        sessions, dead = await _counts(configuration)
        content = support.bundle(configuration, found, sessions, dead, state / "logs", utc_now())
        try:
            write_secret_file(to, content)
        except OSError as error:
            raise ConfigurationError(f"{to}: cannot be written: {error.strerror}; name another with --to") from None
        console.print(f"{to}: {len(content)} bytes; look into it before you send it", soft_wrap=True)
        return 0

    run(work)


async def _counts(configuration: Configuration) -> tuple[dict[str, int], dict[str, int]]:
    """Sessions by system and state, dead letters by service and state; empty where no log answers."""
    try:
        broker = await connect(configuration, "operator-cli")
    except TransientError:
        return {}, {}
    try:
        histories = await LogHistories(broker.log, configuration.subjects).all()
        rows = [each for history in histories if (each := row(history)) is not None]
        letters = await dead_letters.read(broker.log)
    except TransientError:
        return {}, {}
    finally:
        await broker.close()
    return (
        support.counted((each.system, each.state) for each in rows),
        dict(Counter(f"{each.letter.service} {each.state}" for each in letters)),
    )
