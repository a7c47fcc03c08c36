"""The accounts service on the log in memory, and its quotas raced by replicas on a real JetStream."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest

from schemas.access import AccessRecord
from schemas.base import SystemName, UserName
from schemas.lifecycle import Admitted, Ended
from schemas.session import HpcPlace, SessionEvent, StartRequested
from schemas.subjects import Subjects
from schemas.system import SystemDrained, SystemResumed
from services._runtime import topology
from services._runtime.jetstream import JetStreamBucket, JetStreamLog
from services._runtime.log import Bucket, Log
from services._runtime.memory import MemoryBucket, MemoryLog
from services._runtime.settings import Retention
from services._runtime.view import placed
from services.accounts.access import AccessBook
from services.accounts.app import AccountsApp
from services.accounts.settings import AccountsSettings, Quota, Waiting
from tests.support.broker import nats_server
from tests.support.catalogue import system, user
from tests.support.samples import NOW, Story, stamp

SUBJECTS = Subjects()


def accounts(log: Log, bucket: Bucket, *quotas: Quota, **policy: Any) -> AccountsApp:
    settings = AccountsSettings(users=[user("ada"), user("ben")], quotas=list(quotas), reconcile_seconds=3600, **policy)
    systems = {SystemName("demo-hpc"): msgspec.structs.replace(system(), grants={"demo": ["batch"]})}
    seal = stamp("accounts")
    book = AccessBook(log=log, bucket=bucket, subjects=SUBJECTS, stamp=seal, systems=systems, settings=settings)
    return AccountsApp(book=book, log=log, subjects=SUBJECTS, stamp=seal, systems=systems, settings=settings)


async def append(log: Log, event: SessionEvent) -> None:
    scope = SUBJECTS.session(event.session)
    history = await log.history("SESSIONS", scope)
    after = history[-1].sequence if history else 0
    stamped = stamp("hub")(event, after=after, cause=None)
    await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)


async def events(log: Log, story: Story) -> list[str]:
    history = await log.history("SESSIONS", SUBJECTS.session(story.session))
    return [type(each.message).__name__ for each in history]


async def test_a_start_that_may_is_admitted_and_one_that_may_not_ends_with_a_reason() -> None:
    log = MemoryLog()
    app = accounts(log, MemoryBucket())
    await app.start()
    good, bad = Story(), Story(user="ben")
    await append(log, good.requested())
    await append(log, bad.requested(partition="nosuch"))
    await log.settled()
    assert await events(log, good) == ["StartRequested", "StartAdmitted"]
    assert await events(log, bad) == ["StartRequested", "StartRejected", "SessionEnded"]
    await app.close()


async def test_a_stop_before_admission_ends_the_session() -> None:
    log = MemoryLog()
    app = accounts(log, MemoryBucket())
    story = Story()
    await append(log, story.requested())
    await append(log, story.stop())
    await app.start()
    await log.settled()
    assert await events(log, story) == ["StartRequested", "StopRequested", "SessionEnded"]
    await app.close()


async def test_a_share_is_released_at_the_end_and_after_a_crash_in_between() -> None:
    log, quota = MemoryLog(), Quota(system="demo-hpc", limit=1)
    app = accounts(log, MemoryBucket(), quota)
    await app.start()
    first, second = Story(), Story(user="ben")
    await append(log, first.requested())
    await log.settled()
    await append(log, second.requested())
    await log.settled()
    assert (await events(log, second))[1] == "StartRejected"
    await app.close()

    await append(log, first.stop())
    await append(log, first.ended())
    again = accounts(log, MemoryBucket(), quota)
    await again.ledger.follow()
    assert list(again.ledger.holders()) == [first.session]
    await again.start()
    await again.reconcile()
    await log.settled()
    assert list(again.ledger.holders()) == []
    await again.close()


async def test_a_drained_system_refuses_with_the_operators_reason() -> None:
    log = MemoryLog()
    app = accounts(log, MemoryBucket())
    await app.start()
    drained = stamp("ops")(
        SystemDrained(system=SystemName("demo-hpc"), by="op", reason="new file system"), after=0, cause=None
    )
    subject = SUBJECTS.system_event("demo-hpc", "system-drained")
    await log.append("SYSTEMS", subject, drained, scope=subject, after=0)
    story = Story()
    await append(log, story.requested())
    await log.settled()
    history = await log.history("SESSIONS", SUBJECTS.session(story.session))
    state = placed(history).state
    assert isinstance(state, Ended)
    assert "new file system" in state.end.reason
    await app.close()


async def test_who_may_use_what_is_published_for_the_form() -> None:
    log, bucket = MemoryLog(), MemoryBucket()
    await accounts(log, bucket).start()
    entry = await bucket.get("ada")
    assert entry is not None
    record = msgspec.json.decode(entry[0], type=AccessRecord)
    assert record.systems[0].accounts[0].name == "ada1"
    assert len(await log.history("ACCESS", SUBJECTS.access_changed("ada"))) == 1
    await accounts(log, bucket).start()
    assert len(await log.history("ACCESS", SUBJECTS.access_changed("ada"))) == 1


@pytest.mark.parametrize("replicas", [1, 3])
async def test_a_limit_holds_when_replicas_race(tmp_path: Path, replicas: int) -> None:
    quota = Quota(system="demo-hpc", limit=7)
    async with nats_server(tmp_path, sync="2m") as server:
        clients = [await nats.connect(server.url) for _ in range(replicas)]
        await topology.apply(clients[0].jetstream(), SUBJECTS, Retention())
        logs = [JetStreamLog(client, SUBJECTS) for client in clients]
        apps = [
            accounts(log, JetStreamBucket(client.jetstream(), SUBJECTS, "access"), quota)
            for log, client in zip(logs, clients, strict=True)
        ]
        for app in apps:
            await app.start()
        stories = [Story(user=("ada", "ben")[number % 2]) for number in range(40)]
        await asyncio.gather(*[append(logs[0], story.requested()) for story in stories])
        async with asyncio.timeout(30):
            while not all(_judged(apps[0], story) for story in stories):
                await asyncio.sleep(0.02)
        states = [placed(await logs[0].history("SESSIONS", SUBJECTS.session(story.session))).state for story in stories]
        assert sum(isinstance(state, Admitted) for state in states) == 7
        used = [each.message.used for each in await logs[0].history("QUOTAS", SUBJECTS.family("quota"))]  # type: ignore[attr-defined]
        assert max(used) == 7
        for app in apps:
            await app.close()
        for client in clients:
            await client.close()


def _judged(app: AccountsApp, story: Story) -> bool:
    known = app.sessions.view.get(story.session)
    return known is not None and isinstance(known.state, Admitted | Ended)


RIGHT = {"entitlements": ["urn:geant:x:res:demo:ztrain:act:eve1:normal"]}


@pytest.mark.parametrize("policy", ["let-run", "stop"])
async def test_a_right_that_is_gone_stops_new_starts_at_once_and_running_sessions_as_policy_says(policy: str) -> None:
    log, bucket = MemoryLog(), MemoryBucket()
    app = accounts(log, bucket, when_rights_end=policy)
    await app.start()
    await app._book.learn(UserName("eve"), RIGHT, "sign-in")
    running, ended, late = (Story(user="eve") for _ in range(3))

    def of_eve(story: Story) -> StartRequested:
        place = HpcPlace(account="eve1", project="ztrain", partition="batch")
        return msgspec.structs.replace(story.requested(), place=place)

    for story in (running, ended):
        await append(log, of_eve(story))
        await log.settled()
    await append(log, running.created())
    await append(log, ended.ended())
    await app._book.learn(UserName("eve"), {"entitlements": []}, "refresh")
    await append(log, of_eve(late))
    await log.settled()
    async with asyncio.timeout(5):
        while policy == "stop" and "StopRequested" not in await events(log, running):
            await asyncio.sleep(0)
    await app.reconcile()
    assert await events(log, late) == ["StartRequested", "StartRejected", "SessionEnded"]
    stopped = ["StopRequested"] if policy == "stop" else []
    assert await events(log, running) == ["StartRequested", "StartAdmitted", "JobCreated", *stopped]
    assert await events(log, ended) == ["StartRequested", "StartAdmitted", "SessionEnded"]
    await app.close()


async def _said_of_system(log: Log, event: SystemDrained | SystemResumed, after: int) -> None:
    said = stamp("ops")(event, after=after, cause=None)
    subject, scope = SUBJECTS.system_event("demo-hpc", "said"), SUBJECTS.system("demo-hpc")
    await log.append("SYSTEMS", subject, said, scope=scope, after=after)


async def test_who_waits_for_a_drained_system_gets_in_and_who_lost_his_right_meanwhile_does_not() -> None:
    log, bucket = MemoryLog(), MemoryBucket()
    app = accounts(log, bucket, waiting=Waiting(when_drained="wait"))
    await app.start()
    await app._book.learn(UserName("eve"), RIGHT, "sign-in")
    drained = SystemDrained(system=SystemName("demo-hpc"), by="op", reason="new file system")
    await _said_of_system(log, drained, 0)
    keeps, loses, leaves = Story(), Story(user="eve"), Story(user="ben")
    place = HpcPlace(account="eve1", project="ztrain", partition="batch")
    of_ben = HpcPlace(account="ben1", project="ztrain", partition="batch")
    await append(log, msgspec.structs.replace(keeps.requested(), at=NOW))
    await append(log, msgspec.structs.replace(loses.requested(), place=place))
    await append(log, msgspec.structs.replace(leaves.requested(), place=of_ben))
    await log.settled()
    for story in (keeps, loses, leaves):
        assert await events(log, story) == ["StartRequested", "StartWaiting"]
    await app._book.learn(UserName("eve"), {"entitlements": []}, "refresh")
    await append(log, leaves.stop())
    await log.settled()
    assert (await events(log, leaves))[-2:] == ["StopRequested", "SessionEnded"]
    await _said_of_system(log, SystemResumed(system=SystemName("demo-hpc"), by="op", reason="it is there"), 1)
    async with asyncio.timeout(10):
        while (await events(log, keeps))[-1] != "StartAdmitted" or (await events(log, loses))[-1] != "SessionEnded":
            await asyncio.sleep(0)
    state = placed(await log.history("SESSIONS", SUBJECTS.session(loses.session))).state
    assert isinstance(state, Ended)
    assert "You have no account on Demo HPC" in state.end.reason
    await app.close()


async def test_a_restart_of_accounts_goes_on_with_the_line() -> None:
    log, bucket = MemoryLog(), MemoryBucket()
    quota = Quota(system="demo-hpc", limit=1, when_full="wait")
    app = accounts(log, bucket, quota)
    await app.start()
    runs, waits = Story(), Story(user="ben")
    of_ben = HpcPlace(account="ben1", project="ztrain", partition="batch")
    await append(log, runs.requested())
    await log.settled()
    await append(log, msgspec.structs.replace(waits.requested(), place=of_ben))
    await log.settled()
    assert await events(log, waits) == ["StartRequested", "StartWaiting"]
    await app.close()
    await append(log, runs.ended())
    again = accounts(log, bucket, quota)
    await again.start()
    async with asyncio.timeout(10):
        while (await events(log, waits))[-1] != "StartAdmitted":
            await asyncio.sleep(0)
    assert list(again.ledger.holders()) == [waits.session]
    await again.close()
