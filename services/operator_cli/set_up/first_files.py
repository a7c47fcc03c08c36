"""The first `farlab.toml` and system file of a real installation, commented, from a few answers. Pure."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.base import SLUG_PATTERN

SLUG = Annotated[str, Meta(pattern=SLUG_PATTERN, max_length=63)]


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What `farlab init` asks. Names are slugs; `networks` are those of the compute nodes."""

    prefix: SLUG = "farlab"
    hub: SLUG = "main"
    nats: Annotated[str, Meta(pattern=r"^(nats|tls)://[^@]+$")] = "nats://127.0.0.1:4222"
    system: SLUG
    title: str
    url: Annotated[str, Meta(pattern=r"^https?://.+/rest/core$")]
    issuer_dn: str
    reach: Literal["ssh", "direct"] = "ssh"
    login_node: Annotated[str, Meta(pattern=r"^([^:\s]+:\d{1,5})?$")] = ""
    networks: Annotated[list[str], Meta(min_length=1)]
    partition: Annotated[str, Meta(min_length=1, max_length=64)]


def files(answers: Answers) -> dict[str, str]:
    """The files by their names beneath the folder."""
    return {"farlab.toml": _main(answers), f"systems/{answers.system}.toml": _system(answers)}


def _main(answers: Answers) -> str:
    return f"""\
# Farlab. Every setting: docs/operators/configuration.md. Check this file with: farlab config check --reach
[installation]
prefix = {_text(answers.prefix)}          # first token of every subject: several installations can share one NATS
hub = {_text(answers.hub)}                # names this JupyterHub in the log
systems_folder = "systems"    # one file a system
keys_folder = "keys"          # made by: farlab keys keys/

[nats]
servers = [{_text(answers.nats)}]
nkeys_folder = "nkeys"        # made by: farlab nats-config --to nats

[retention]
replicas = 1                  # 3 on a cluster of three servers
max_age_seconds = 0           # 0 keeps the log for ever; replay needs it

# Who may use what. An identity provider can say it instead: docs/operators/
[[accounts.users]]
name = "ada"
systems.{answers.system} = {{ site_identity = "CN=Ada Lovelace", accounts = [
    {{ name = "lovelace1", projects = {{ myproject = [] }} }},   # [] means every partition
] }}

[[accounts.quotas]]
system = {_text(answers.system)}
resource = "sessions"
limit = 100                   # of all users together
per_user = 5
"""


def _system(answers: Answers) -> str:
    return f"""\
# The system {answers.system}; the file's name is the system's. How to set the site up: docs/operators/unicore.md
title = {_text(answers.title)}

[site]
backend = "unicore"
url = {_text(answers.url)}
issuer_dn = {_text(answers.issuer_dn)}          # who the site trusts to act for users
delegation_key_file = "delegation.pem"    # its private key, mode 600
# ca_file = "ca.pem"                      # where the site's certificate is of no public authority

{_reach(answers)}
[job]
# prologue = ["module load Python"]       # shell lines before JupyterLab starts
# hub_api_url = "https://jupyter.example.org/hub/api"   # where jobs reach the hub

[partitions.{_text(answers.partition)}]
max_nodes = 1
cores_per_node = 1                        # say what a node has: quotas count by it
max_runtime_seconds = 86400
default_runtime_seconds = 3600
"""


def _reach(answers: Answers) -> str:
    networks = ", ".join(_text(each) for each in answers.networks)
    if answers.reach == "direct":
        return f'[reach]\nreach = "direct"\nnetworks = [{networks}]        # of the compute nodes; others are refused\n'
    return f"""\
[reach]
reach = "ssh"
login_nodes = [{_text(answers.login_node)}]
user = "farlab"
key_file = "id_ed25519"                   # mode 600; on the site restricted to port forwarding
known_hosts_file = "known_hosts"          # the login node's host key, compared by you
networks = [{networks}]                   # of the compute nodes; others are refused
"""


def _text(value: str) -> str:
    """A TOML string: JSON's escapes are among TOML's."""
    return json.dumps(value, ensure_ascii=True)
