"""The spawn form as HTML: the offer as data, the choices made by a small script. Validates nothing, reads no log."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from services.hub_bridge.offer import Offer

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)


def options_form(offer: Offer, last: Mapping[str, object]) -> str:
    """The form's inner HTML, filled in with the options of the last start as far as they are still possible."""
    template = _environment().get_template("farlab_options.html")
    systems = {
        name: system
        for each in offer.organisations.values()
        for name, system in [*each.systems.items(), *each.clouds.items()]
    }
    return template.render(
        offer=offer, systems=systems, offer_json=script_json(offer), last_json=script_json(_plain(last))
    )


def _plain(last: Mapping[str, object]) -> dict[str, object]:
    return {str(name): value for name, value in last.items() if isinstance(value, str | int)}


def script_json(value: object) -> Markup:
    """JSON that may stand inside a `script` element: no `<`, `>` or `&`, so nothing in it ends the element."""
    text = msgspec.json.encode(value).decode()
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704 - escaped for where it stands
