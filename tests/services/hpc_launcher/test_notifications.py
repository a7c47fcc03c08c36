"""Notifications are hints: believed only when the site signed them about this user's job, and then asked about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from aiohttp import web

from emulators.unicore_site.site import UnicoreSite
from schemas.base import SystemName
from schemas.lifecycle import Submitted
from services._runtime.http import HttpServer
from services._runtime.log import Recorded
from services._runtime.view import SessionView
from services.hpc_launcher.app import site_of
from services.hpc_launcher.notifications import PATH, Notifications, _parts
from tests.services.hpc_launcher.stage import emulated_site, system_at
from tests.support.samples import Story, stamp

DEMO = SystemName("demo-hpc")


class Endpoint:
    """The endpoint over HTTP, with one submitted job `job-1` of Ada."""

    def __init__(self, site: UnicoreSite, key: Path) -> None:
        self.story = Story()
        self.view = SessionView()
        for number, event in enumerate(
            [self.story.requested(), self.story.admitted(), self.story.created("job-1"), self.story.submitted()], 1
        ):
            self.view.learn(Recorded(number, stamp()(event, after=number, cause=None)))
        self.hints: list[str] = []
        self.emulated = site
        self.site = site_of(system_at(site, key))
        notifications = Notifications(
            sites={DEMO: self.site}, view=self.view, hint=lambda _, session: self.hints.append(session)
        )
        self.http = HttpServer(lambda: [], host="127.0.0.1", port=0, routes=[web.post(PATH, notifications.take)])

    async def post(self, token: str | None = None, path: str = "", body: object = None) -> int:
        """Posts as a site does; the answer's status."""
        where = path or f"/notifications/demo-hpc/{self.story.session}"
        content = {"href": "https://internal/rest/core/jobs/job-1", "status": "RUNNING"} if body is None else body
        headers = {"Authorization": f"Bearer {self.token() if token is None else token}"}
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"http://127.0.0.1:{self.http.port}{where}"
            return (await client.post(url, json=content, headers=headers)).status_code

    def token(self, key: Path | None = None, **changed: Any) -> str:
        """A token as UNICORE/X signs it."""
        now = datetime.now(UTC)
        claims = {"iss": "CN=DEMO", "sub": "CN=Ada", "etd": "true", "iat": now, "exp": now + timedelta(minutes=5)}
        claims = {name: value for name, value in {**claims, **changed}.items() if value is not None}
        file = key or Path(self.emulated.configuration.folder) / "tls" / "server.key"
        return jwt.encode(claims, file.read_bytes(), algorithm="ES256")


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with emulated_site(tmp_path) as (site, key):
        made = Endpoint(site, key)
        await made.http.start()
        yield made
        await made.http.close()
        await made.site.close()


async def test_a_true_notification_is_a_hint(endpoint: Endpoint) -> None:
    known = endpoint.view.get(endpoint.story.session)
    assert known is not None
    assert isinstance(known.state, Submitted)
    assert await endpoint.post() == 204
    assert endpoint.hints == [endpoint.story.session]


async def test_forged_ones_are_refused_and_do_not_make_us_ask_the_site(endpoint: Endpoint, tmp_path: Path) -> None:
    other = tmp_path / "delegation.pem"
    old = datetime.now(UTC) - timedelta(hours=1)
    for token in (
        "x",
        "x.y.z",
        endpoint.token(other),
        endpoint.token(iss="CN=Evil"),
        endpoint.token(sub="CN=Ben"),
        endpoint.token(iss=None),
        endpoint.token(sub=None),
        endpoint.token(iat=None),
        endpoint.token(exp=old),
        jwt.encode({"iss": "CN=DEMO", "sub": "CN=Ada", "iat": old}, "x" * 32, algorithm="HS256"),
        jwt.encode({"iss": "CN=DEMO", "sub": "CN=Ada", "iat": old}, "", algorithm="none"),
    ):
        assert await endpoint.post(token) == 401, token
    assert endpoint.hints == []
    assert endpoint.emulated.requests["GET /DEMO/rest/core/certificate"] == 1


async def test_a_new_certificate_is_fetched_when_the_old_one_does_not_fit(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.hpc_launcher import notifications

    monkeypatch.setattr(notifications, "REFETCH_SECONDS", 0.0)
    assert await endpoint.post() == 204
    newer = Path(endpoint.emulated.configuration.folder) / "newer"
    from emulators import certificates

    _, certificate, key = certificates.make(newer, "127.0.0.1", "DEMO")
    endpoint.emulated._certificate = certificate.read_text()
    assert await endpoint.post(endpoint.token(key)) == 204
    assert endpoint.emulated.requests["GET /DEMO/rest/core/certificate"] == 2


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/notifications/demo-hpc/01kb00000000000000000000aa", None, 404),
        ("/notifications/nosuch/{session}", None, 404),
        ("", {"href": "https://site/rest/core/jobs/job-2"}, 404),
        ("", {"status": "RUNNING"}, 400),
        ("", [], 400),
    ],
)
async def test_what_does_not_fit_the_log_is_not_followed(
    endpoint: Endpoint, path: str, body: object, status: int
) -> None:
    assert await endpoint.post(path=path.format(session=endpoint.story.session), body=body) == status
    assert endpoint.hints == []


async def test_a_site_that_does_not_answer_leaves_it_unverified(endpoint: Endpoint) -> None:
    from emulators.unicore_site.faults import Fault

    endpoint.emulated.faults.planned.append(Fault(kind="drop", path="/certificate"))
    assert await endpoint.post() == 503
    assert await endpoint.post() == 204


def test_names_are_compared_without_regard_to_how_they_are_written() -> None:
    assert _parts("CN=Ada Lovelace, O=Demo,C=DE") == _parts("c=DE,O=demo,CN=Ada Lovelace")
    assert _parts("CN=Ada,O=Demo") != _parts("CN=Ada")
