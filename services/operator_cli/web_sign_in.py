"""Signs a user in and out as a browser does, through the hub and the emulated provider's form. Reads no token.

An authorization-code flow over HTTP, with cookies and redirects; every page is looked at for what a person would see.
"""

from __future__ import annotations

import time
from html.parser import HTMLParser

import aiohttp
import msgspec

from services.operator_cli.probe import Phase, ProbeError


class Form(msgspec.Struct):
    """A form of a page: where it is sent, and the fields that are filled in already."""

    action: str = ""
    fields: dict[str, str] = {}


class WebSignIn:
    """One browser's way in and out of a hub."""

    def __init__(self, hub: str, http: aiohttp.ClientSession) -> None:
        """`http` must keep cookies for addresses that are numbers."""
        self._hub = hub.rstrip("/") + "/"
        self._http = http

    async def enter(self, user: str, password: str, code: str = "", query: str = "") -> Phase:
        """Signs in. Raises ProbeError when the user is not in afterwards, with what the page says."""
        begun = time.perf_counter()
        async with self._http.get(f"{self._hub}hub/oauth_login{query}") as page:
            address, form = str(page.url), form_of(await page.text(), "password")
        if form is None:
            raise ProbeError(f"no form to sign in with at {address}")
        filled = {**form.fields, "username": user, "password": password, **({"code": code} if code else {})}
        async with self._http.post(form.action or address, data=filled) as page:
            text, address = await page.text(), str(page.url)
            if page.status != 200 or not address.startswith(self._hub):
                raise ProbeError(f"{user} could not sign in: {page.status} at {address.partition('?')[0]}")
        if f'user: "{user}"' not in text:
            raise ProbeError(f"{user} signed in and is not known at {address.partition('?')[0]}")
        return Phase(name="sign in", seconds=_since(begun), detail=f"{user}, through the provider")

    async def leave(self) -> Phase:
        """Signs out, here and at the provider. Raises ProbeError when either still knows the user."""
        begun = time.perf_counter()
        async with self._http.get(f"{self._hub}hub/logout") as page:
            form = form_of(await page.text(), "id_token_hint")
        if form is None:
            raise ProbeError("the hub does not sign out at the provider")
        async with self._http.post(form.action, data=form.fields) as page:
            if not str(page.url).startswith(self._hub):
                raise ProbeError(f"the provider does not lead back: {page.status} at {page.url}")
        async with self._http.get(f"{self._hub}hub/oauth_login") as page:
            if form_of(await page.text(), "password") is None:
                raise ProbeError("the provider still knows who signed out")
        return Phase(name="sign out", seconds=_since(begun), detail="here and at the provider")


def form_of(page: str, field: str) -> Form | None:
    """The first form of a page that has this field. Pure."""
    reader = _Forms()
    reader.feed(page)
    return next((form for form in reader.forms if field in form.fields), None)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(action=values.get("action", "")))
        elif tag == "input" and self.forms and "name" in values:
            self.forms[-1].fields[values["name"]] = values.get("value", "")


def _since(begun: float) -> float:
    return round(time.perf_counter() - begun, 3)
