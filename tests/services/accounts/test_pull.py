"""Rights asked for between sign-ins, from a real HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from schemas.base import UserName
from services._runtime.configuration import ConfigurationError
from services._runtime.settings import load
from services.accounts.pull import AwayError, PullSource
from services.accounts.settings import PullSettings, accounts_settings
from tests.support.running import ROOT

ADA, ODD = UserName("ada"), UserName("o/d?d é")


@dataclass
class Book:
    """See `pull.Learns`."""

    users: list[UserName]
    learned: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def known_by_claims(self) -> list[UserName]:
        return self.users

    async def learn(self, user: UserName, claims: Mapping[str, object], reason: str) -> None:
        assert reason == "pulled"
        self.learned.append((user, dict(claims)))


@dataclass
class Turn:
    held: bool = True


@dataclass
class Place:
    """The server: claims by user, and what it was asked."""

    claims: dict[str, dict[str, object]] = field(default_factory=dict)
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        user, known = request.match_info["user"], request.headers.get("If-None-Match", "")
        self.asked.append((user, known, request.headers.get("Authorization", "")))
        if self.status != 200 or self.body is not None:
            return web.Response(status=self.status, body=self.body, headers=self.headers)
        if user not in self.claims:
            return web.Response(status=404)
        etag = f'"{hash(str(self.claims[user]))}"'
        if known == etag:
            return web.Response(status=304)
        return web.json_response(self.claims[user], headers={"ETag": etag})


@asynccontextmanager
async def source(tmp_path: Path, place: Place, book: Book, turn: Turn | None = None) -> AsyncIterator[PullSource]:
    app = web.Application()
    app.router.add_get("/rights/{user}", place.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "token").chmod(0o600)
    settings = PullSettings(
        url=f"http://127.0.0.1:{port}/rights/{{user}}", token_file="token", every_seconds=0.05, timeout_seconds=5
    )
    pulling = PullSource(settings, tmp_path, learns=book, turn=turn or Turn())
    try:
        yield pulling
    finally:
        await pulling.close()
        await runner.cleanup()


async def test_what_changed_is_learned_once_and_what_did_not_is_not_sent_again(tmp_path: Path) -> None:
    place, book = Place({ADA: {"entitlements": ["one"]}, ODD: {}}), Book([ADA, ODD])
    async with source(tmp_path, place, book) as pulling:
        for user in book.users:
            await pulling.ask(user)
        await pulling.ask(ADA)
        assert book.learned == [(ADA, {"entitlements": ["one"]}), (ODD, {})]
        assert [(user, bool(known)) for user, known, _ in place.asked] == [(ADA, False), (ODD, False), (ADA, True)]
        assert {token for *_, token in place.asked} == {"Bearer s3cret"}
        place.claims[ADA] = {"entitlements": []}
        await pulling.ask(ADA)
        assert book.learned[-1] == (ADA, {"entitlements": []})


async def test_who_is_not_known_there_keeps_his_rights(tmp_path: Path) -> None:
    place, book = Place(), Book([ADA])
    async with source(tmp_path, place, book) as pulling:
        await pulling.ask(ADA)
        assert book.learned == []


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, b"", "answered 503"),
        (401, b"", "answered 401"),
        (302, b"", "answered 302"),
        (200, b"[1]", "not a JSON object of claims"),
        (200, b"<html>", "not a JSON object of claims"),
        (200, b'"' + b"x" * 2_000_000 + b'"', "more than 1048576 bytes"),
    ],
)
async def test_an_answer_that_is_none_changes_nothing_and_names_no_user(
    tmp_path: Path, status: int, body: bytes, said: str
) -> None:
    place, book = Place(status=status, body=body), Book([ADA])
    async with source(tmp_path, place, book) as pulling:
        with pytest.raises(AwayError, match=said) as caught:
            await pulling.ask(ADA)
        assert book.learned == []
        assert "ada" not in caught.value.reason
        assert "s3cret" not in caught.value.reason


async def test_a_source_says_when_it_wants_to_be_asked_again(tmp_path: Path) -> None:
    async with source(tmp_path, Place(status=429, headers={"Retry-After": "17"}), Book([ADA])) as pulling:
        with pytest.raises(AwayError) as caught:
            await pulling.round()
        assert caught.value.delay_seconds == 17


async def test_it_goes_on_over_an_outage_and_only_in_its_turn(tmp_path: Path) -> None:
    place, book, turn = Place({ADA: {"entitlements": ["one"]}}, status=503), Book([ADA]), Turn(held=False)
    async with source(tmp_path, place, book, turn) as pulling:
        running = asyncio.create_task(pulling.run())
        async with asyncio.timeout(10):
            turn.held = True
            while not place.asked:
                await asyncio.sleep(0.01)
            place.status = 200
            while not book.learned:
                await asyncio.sleep(0.01)
            turn.held = False
        running.cancel()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://idp.example.org/rights", "names no user; put {user} where the name goes"),
        ("http://idp.example.org/{user}", "not encrypted; use https"),
        ("ftp://idp.example.org/{user}", "accounts.pull.url"),
    ],
)
def test_an_address_that_cannot_be_is_one_line(tmp_path: Path, url: str, said: str) -> None:
    text = (ROOT / "farlab.toml").read_text() + f'\n[accounts.pull]\nurl = "{url}"\n'
    file = tmp_path / "farlab.toml"
    file.write_text(text)
    (tmp_path / "systems").symlink_to(ROOT / "systems")
    with pytest.raises(ConfigurationError) as caught:
        accounts_settings(load(file))
    assert said in str(caught.value)
