"""The hub killed and started again, with starts that wait and servers that run: nobody loses anything."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from jupyterhub.utils import compare_token

from schemas.base import SessionId
from schemas.lifecycle import Ended, Ready, Submitted
from schemas.secrets import JobSecrets
from services._runtime.connection import Broker
from services._runtime.settings import load
from services._runtime.vault import Vault
from tests.services.hub_bridge.installation import Hub, ids, installation, no_secret_is_left

pytestmark = pytest.mark.timeout(240)

MANY = 20


async def _token(hub: Hub, broker: Broker, session: SessionId) -> str:
    """The token the job of a session holds, as the launcher reads it."""
    configuration = load(hub.folder / "farlab.toml")
    secrets = await Vault(broker.vault, configuration.keys_folder, "hpc-launcher").open(session, JobSecrets)
    return secrets.environment["JUPYTERHUB_API_TOKEN"]


async def _is_valid(hub: Hub, token: str) -> bool:
    async with hub.http.get(f"{hub.url}hub/api/user", headers={"Authorization": f"token {token}"}) as answer:
        return answer.status == 200


def _rows(hub: Hub, question: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(hub.folder / "hub" / "jupyterhub.sqlite") as database:
        return database.execute(question).fetchall()


async def test_twenty_waiting_and_twenty_running_outlive_a_killed_hub(tmp_path: Path) -> None:
    waiting, running = list(ids("waiting", MANY)), list(ids("running", MANY))
    async with installation(tmp_path, waiting + running) as (hub, others, broker):
        await hub.start()
        await asyncio.gather(*[hub.start_server(user) for user in running])
        await asyncio.gather(*[hub.until(user, seconds=60) for user in running])
        others.queue.clear()
        await asyncio.gather(*[hub.start_server(user) for user in waiting])
        sessions = {user: await others.until(user, Submitted) for user in waiting}
        sessions |= {user: await others.until(user, Ready) for user in running}
        tokens = {user: await _token(hub, broker, session) for user, session in sessions.items()}
        scopes = dict(_rows(hub, "select identifier, allowed_scopes from oauth_clients"))
        assert "access:servers!server=waiting0/" in str(scopes["jupyterhub-user-waiting0"])

        hub.stop(signal.SIGKILL)
        assert [(await hub.visit(user))["session"] for user in running] == [sessions[user] for user in running]
        await hub.start()
        await asyncio.gather(*[hub.until(user, seconds=60) for user in running])
        others.queue.set()
        await asyncio.gather(*[hub.until(user, seconds=60) for user in waiting])

        for user, session in sessions.items():
            assert others.sessions(user) == [session], "no second session, so no second job"
            assert isinstance(others.state(session), Ready)
            assert "StopRequested" not in others.names(session)
            assert (await hub.visit(user))["session"] == session
            assert await _is_valid(hub, tokens[user])
        assert dict(_rows(hub, "select identifier, allowed_scopes from oauth_clients")) == scopes
        secrets = dict(_rows(hub, "select identifier, secret from oauth_clients"))
        for user, token in tokens.items():
            assert compare_token(secrets[f"jupyterhub-user-{user}"], token), "the job's OAuth secret still holds"

        await asyncio.gather(*[hub.stop_server(user) for user in sessions])
        await asyncio.gather(*[hub.until(user, ready=False) for user in sessions])
        assert all(isinstance(others.state(session), Ended) for session in sessions.values())
        assert not [user for user, token in tokens.items() if await _is_valid(hub, token)]
        assert _rows(hub, "select count(*) from api_tokens where user_id is not null") == [(0,)]
        await no_secret_is_left(broker)


async def test_what_ended_while_the_hub_was_away(tmp_path: Path) -> None:
    users = ["ada", "ben", "cleo"]
    async with installation(tmp_path, users) as (hub, others, broker):
        await hub.start()
        await hub.start_server("ada")
        await hub.until("ada")
        running = await others.until("ada", Ready)
        others.queue.clear()
        await hub.start_server("ben")
        waiting = await others.until("ben", Submitted)
        hub.stop(signal.SIGTERM)
        assert "StopRequested" not in others.names(running) + others.names(waiting), "a hub that ends stops nobody"
        await others.end(running, outcome="finished", reason="The user shut it down.")
        await others.end(waiting, outcome="expired", reason="It waited too long.")
        for key in await broker.vault.keys():
            await broker.vault.delete(key)
        others.queue.set()
        await hub.start()
        for user in ("ada", "ben"):
            await hub.until(user, ready=False)
        async with asyncio.timeout(10):
            while _rows(hub, "select count(*) from api_tokens where user_id is not null") != [(0,)]:
                await asyncio.sleep(0.05)
        await hub.start_server("ben")
        await hub.until("ben")
        assert len(others.sessions("ben")) == 2
        states = [json.loads(str(state)) for (state,) in _rows(hub, "select state from spawners") if state]
        assert sorted(state["session"] for state in states if state) == [others.sessions("ben")[-1]]


async def test_start_pressed_for_a_session_that_only_the_log_knows(tmp_path: Path) -> None:
    """JupyterHub lost its database; the user logs in, presses Start, and is back on the same server."""
    async with installation(tmp_path, ["ada"]) as (hub, others, broker):
        await hub.start()
        await hub.start_server("ada")
        session = await others.until("ada", Ready)
        await hub.until("ada")
        token = await _token(hub, broker, session)
        hub.stop(signal.SIGKILL)
        for file in (hub.folder / "hub").glob("jupyterhub.sqlite*"):
            file.unlink()
        await hub.start()
        status, answer = await hub.start_server("ada")
        assert status in (201, 202), answer
        await hub.until("ada")
        assert (await hub.visit("ada"))["session"] == session
        assert others.sessions("ada") == [session]
        assert await _is_valid(hub, token)


async def test_cancelled_and_moved_after_a_restart(tmp_path: Path) -> None:
    users = ["ada", "ben"]
    async with installation(tmp_path, users) as (hub, others, broker):
        await hub.start()
        await hub.start_server("ada")
        running = await others.until("ada", Ready)
        await hub.until("ada")
        others.queue.clear()
        await hub.start_server("ben")
        waiting = await others.until("ben", Submitted)
        hub.stop(signal.SIGKILL)
        new = await others.move(running)  # while no hub is there to follow
        await hub.start()
        async with asyncio.timeout(20):
            while not ((model := await hub.server("ben")) and model["pending"] == "spawn"):
                await asyncio.sleep(0.05)
        said: list[dict[str, Any]] = []
        reader = asyncio.create_task(hub.progress("ben", said=said))
        async with asyncio.timeout(20):
            while len(said) < 3:
                await asyncio.sleep(0.02)
        told = [message.get("event") for message in said]
        assert told[1:3] == ["start-requested", "start-admitted"], "the story is told from its beginning"
        assert await hub.stop_server("ben") in (202, 204)
        await hub.until("ben", ready=False)
        await reader
        assert isinstance(others.state(waiting), Ended)
        await hub.until("ada")
        assert (await hub.visit("ada")) == {"session": running, "port": new.port}
        third = await others.move(running)
        async with asyncio.timeout(10):
            while (await _there(hub)) != third.port:
                await asyncio.sleep(0.02)
        assert await broker.vault.keys() != []


async def _there(hub: Hub) -> int:
    async with hub.http.get(f"{hub.url}user/ada/x") as answer:
        return int((await answer.json())["port"]) if answer.status == 200 else 0


async def test_a_hub_that_starts_while_the_log_is_away(tmp_path: Path) -> None:
    """An event log that is silent is no proof of anything: nothing is stopped, and all goes on when it is back."""
    async with installation(tmp_path, ["ada", "ben", "cleo"]) as (hub, others, _broker):
        await hub.start()
        await hub.start_server("ada")
        running = await others.until("ada", Ready)
        await hub.until("ada")
        others.queue.clear()
        await hub.start_server("ben")
        waiting = await others.until("ben", Submitted)
        server = hub.broker_process
        server.stop(signal.SIGKILL)
        hub.stop(signal.SIGKILL)
        await hub.start()
        status, answer = await hub.start_server("cleo")
        assert status in (202, 503), answer
        assert (await hub.visit("ada"))["session"] == running
        await server.start()
        others.queue.set()
        await hub.until("ada", seconds=60)
        await hub.until("ben", seconds=60)
        assert others.sessions("ada") + others.sessions("ben") == [running, waiting]
        assert (await hub.visit("ben"))["session"] == waiting
