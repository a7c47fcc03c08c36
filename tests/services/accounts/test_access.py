"""The book of who may use what: every source counts, changes are said once, and a restart forgets nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from schemas.access import AccessChanged, AccessRecord
from schemas.base import SystemName, UserName
from schemas.subjects import Subjects, slug
from services._runtime.log import Subscription
from services._runtime.memory import MemoryBucket, MemoryLog
from services.accounts.access import AccessBook
from services.accounts.organisations import Organisation
from services.accounts.settings import AccountsSettings, User
from tests.support.catalogue import system, user
from tests.support.samples import stamp

SUBJECTS = Subjects()
ADA, EVE = UserName("ada"), UserName("eve")
GROUP = "urn:geant:x:group:ai"
RIGHT = "urn:geant:x:res:demo:ztrain:act:eve1:normal"
SYSTEM = msgspec.structs.replace(system(), grants={"demo": ["batch"]})
SETTINGS = AccountsSettings(users=[user("ada")], organisations=[Organisation(name="ai", groups=[GROUP])])


class Installation:
    """A log and a bucket that outlive the books opened on them."""

    def __init__(self) -> None:
        self.log, self.bucket = MemoryLog(), MemoryBucket()
        self._following: list[Subscription] = []

    async def book(self, settings: AccountsSettings = SETTINGS, replica: str = "accounts") -> AccessBook:
        book = AccessBook(
            log=self.log,
            bucket=self.bucket,
            subjects=SUBJECTS,
            stamp=stamp(replica),
            systems={SystemName("demo-hpc"): SYSTEM},
            settings=settings,
        )
        self._following.append(await book.start())
        return book

    async def changes(self, user: UserName) -> list[AccessRecord]:
        history = await self.log.history("ACCESS", SUBJECTS.access_changed(user))
        return [each.message.record for each in history if isinstance(each.message, AccessChanged)]

    async def read_model(self, user: UserName) -> AccessRecord:
        entry = await self.bucket.get(slug(user))
        assert entry is not None
        return msgspec.json.decode(entry[0], type=AccessRecord)


async def test_configured_users_are_known_and_said_once_over_restarts() -> None:
    installation = Installation()
    for _ in range(3):
        book = await installation.book()
        assert book.records[ADA].systems[0].accounts[0].name == "ada1"
    assert len(await installation.changes(ADA)) == 1
    assert await installation.read_model(ADA) == book.records[ADA]


async def test_what_claims_say_opens_systems_and_organisations_and_outlives_a_restart() -> None:
    installation = Installation()
    book = await installation.book()
    await book.learn(EVE, {"entitlements": [RIGHT, GROUP], "x500name": "CN=Eve"}, "sign-in")
    record = book.records[EVE]
    assert record.vos == ["default", "ai"]
    [access] = record.systems
    assert (access.site_identity, access.accounts[0].projects[0].partitions) == ("CN=Eve", ["batch"])
    again = await installation.book()
    assert again.records[EVE] == record == await installation.read_model(EVE)
    assert len(await installation.changes(EVE)) == 1


async def test_a_right_that_is_gone_is_gone_from_log_and_read_model() -> None:
    installation = Installation()
    book = await installation.book()
    await book.learn(EVE, {"entitlements": [RIGHT]}, "sign-in")
    await book.learn(EVE, {"entitlements": []}, "refresh")
    assert book.records[EVE].systems == []
    assert (await installation.read_model(EVE)).systems == []
    assert len(await installation.changes(EVE)) == 2


async def test_claims_that_say_the_same_are_no_change_in_whatever_order() -> None:
    installation = Installation()
    book = await installation.book()
    for values in ([RIGHT, GROUP], [GROUP, RIGHT], [GROUP + "#auth", RIGHT, RIGHT]):
        await book.learn(EVE, {"entitlements": values}, "refresh")
    assert len(await installation.changes(EVE)) == 1


async def test_a_user_who_is_taken_out_of_the_configuration_loses_what_it_gave() -> None:
    installation = Installation()
    await installation.book()
    book = await installation.book(AccountsSettings(users=[User(name="ben")]))
    assert book.records[ADA].systems == []
    assert (await installation.read_model(ADA)).systems == []


async def test_replicas_agree_on_what_they_hear_from_each_other() -> None:
    installation = Installation()
    books = [await installation.book(replica=f"accounts-{number}") for number in range(3)]
    heard: list[Sequence[str]] = []
    books[2].watch(lambda record: heard.append([each.system for each in record.systems]))
    await asyncio.gather(*[book.learn(EVE, {"entitlements": [RIGHT]}, "sign-in") for book in books[:2]])
    await installation.log.settled()
    assert {msgspec.json.encode(book.records[EVE]) for book in books} == {msgspec.json.encode(books[0].records[EVE])}
    assert len(await installation.changes(EVE)) == 1
    assert heard == [["demo-hpc"]]


async def test_damaged_values_take_nothing_else_with_them() -> None:
    installation = Installation()
    book = await installation.book()
    await book.learn(EVE, {"entitlements": ["urn:geant:x:res:broken::act:a:normal", RIGHT, 7]}, "sign-in")
    assert [access.system for access in book.records[EVE].systems] == ["demo-hpc"]
    assert {each.value for each in book.rights(EVE).malformed} == {"7", "urn:geant:x:res:broken::act:a:normal"}
