"""What an operator does, on a broker with the permissions of `farlab up`, obeyed by the real accounts service."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import timedelta

import pytest

from schemas.acts import DeadLetterRetried, SecretsPurged, SessionAct
from schemas.lifecycle import Admitted, Cancelling, Created, Ended, Ready, Requested, SessionState, fold
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from schemas.system import SystemAnnounced, SystemDrained, SystemResumed
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.dead_letters import letters
from services._runtime.log import Recorded
from services._runtime.service import stamp_of
from services._runtime.settings import Configuration, load
from services._runtime.standing import standing
from services._runtime.vault import Vault
from services._runtime.view import placed
from services.accounts.build import build
from services.operator_cli.acts import dead_letters, settle, stop, systems, vault
from services.operator_cli.acts.append import Operator
from services.operator_cli.acts.consent import SHOWN, Consent, agreed
from services.operator_cli.histories import LogHistories
from services.operator_cli.story.row import Wanted
from tests.services.operator_cli.conftest import signed_in
from tests.services.operator_cli.test_reading_commands import farlab
from tests.support.running import ROOT
from tests.support.samples import NOW, SYSTEM, Story, stamp

SUBJECTS = Subjects()
YES = Consent(yes=True)
Capture = pytest.CaptureFixture[str]


def hand(broker: Broker, configuration: Configuration) -> Operator:
    return Operator(broker.log, SUBJECTS, stamp_of(configuration, "operator-cli"))


async def append(broker: Broker, event: SessionEvent) -> None:
    scope = SUBJECTS.session(event.session)
    history = await broker.log.history("SESSIONS", scope)
    after = history[-1].sequence if history else 0
    stamped = stamp()(event, after=after, cause=None)
    await broker.log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)


async def state_of(broker: Broker, story: Story) -> SessionState:
    return placed(await broker.log.history("SESSIONS", SUBJECTS.session(story.session))).state


async def test_a_drain_is_said_once_and_taken_back(guarded: Configuration) -> None:
    drain = SystemDrained(system=SYSTEM, by="operator ada", reason="new file system")
    resume = SystemResumed(system=SYSTEM, by="operator ada", reason="it is there")
    async with signed_in(guarded, "operator-cli") as broker:
        operator = hand(broker, guarded)
        said = [await systems.say(operator, each) for each in (resume, drain, drain)]
        assert said == ["it is not drained", "system drained", "it is drained already: new file system"]
        [here] = await systems.standings(broker.log, guarded, NOW)
        assert (here.drained, here.by) == ("new file system", "operator ada")
        assert await systems.say(operator, resume) == "system resumed"
        [here] = await systems.standings(broker.log, guarded, NOW)
        assert here.drained == ""
        history = await broker.log.history("SYSTEMS", SUBJECTS.system(SYSTEM))
        assert [each.message.source for each in history] == ["farlab/operator-cli"] * 2


def test_a_maintenance_is_told_until_it_is_over() -> None:
    plan = SystemAnnounced(
        system=SYSTEM, by="op", reason="cooling", starts=NOW, ends=NOW + timedelta(hours=2), id="1", source="x"
    )
    history = [Recorded(1, plan)]
    assert standing(SYSTEM, history, NOW).maintenance == plan
    assert standing(SYSTEM, history, NOW + timedelta(hours=3)).maintenance is None


def test_what_is_no_system_or_no_time_gets_a_remedy() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'demo-hpc'"):
        systems.known_system(load(ROOT / "farlab.toml"), "demo-hcp")
    with pytest.raises(ConfigurationError, match="in which time zone"):
        systems.moment("--starts", "2026-12-01T08:00")
    with pytest.raises(ConfigurationError, match="not a time"):
        systems.moment("--starts", "tomorrow")


async def test_sessions_are_stopped_by_filter_and_only_starts_by_cancel(
    guarded: Configuration, capsys: Capture
) -> None:
    waits, used, other = Story(user="ada"), Story(user="ada", server_name="lab"), Story(user="ben")
    async with (
        signed_in(guarded, "hub-bridge") as hub,
        signed_in(guarded, "accounts") as accounts,
        signed_in(guarded, "hpc-launcher") as launcher,
        signed_in(guarded, "tunneler") as tunneler,
        signed_in(guarded, "operator-cli") as broker,
    ):
        for story in (waits, used, other):
            await append(hub, story.requested())
        await append(accounts, used.admitted())
        for event in (used.created(), used.submitted(), used.listening()):
            await append(launcher, event)
        await append(tunneler, used.tunnel())
        await append(hub, used.ready())
        of_ada = Wanted(user="ada")
        await stop.ask_to_stop(broker, guarded, [], of_ada, "no more", Consent(dry_run=True))
        assert isinstance(await state_of(broker, waits), Requested)
        assert "Nothing was done: --dry-run." in capsys.readouterr().out
        await stop.ask_to_stop(broker, guarded, [], of_ada, "no more", YES, starts_only=True)
        assert type(await state_of(broker, waits)).__name__ == "Withdrawn"
        assert isinstance(await state_of(broker, used), Ready)
        await stop.ask_to_stop(broker, guarded, [], of_ada, "no more", YES)
        assert type(await state_of(broker, used)).__name__ == "Stopping"
        assert isinstance(await state_of(broker, other), Requested)
        histories = await LogHistories(broker.log, SUBJECTS).all()
    with pytest.raises(ConfigurationError, match="which sessions"):
        stop.chosen(histories, [], Wanted(), NOW, starts_only=False)


def test_a_preview_is_bounded_and_nobody_agrees_by_silence(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"session {number}" for number in range(3000)]
    assert agreed(YES, "Stop them?", lines)
    assert len(capsys.readouterr().out.splitlines()) == SHOWN + 1
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(ConfigurationError, match="add --yes"):
        agreed(Consent(), "Stop them?", lines)
    assert not agreed(Consent(yes=True, dry_run=True), "Stop them?", lines)


async def test_accounts_end_a_session_on_an_operators_word(guarded: Configuration) -> None:
    story = Story()
    async with (
        signed_in(guarded, "hub-bridge") as hub,
        signed_in(guarded, "accounts") as accounts,
        signed_in(guarded, "operator-cli") as broker,
    ):
        app = build(guarded, accounts)
        await app.start()
        await append(hub, story.requested())
        async with asyncio.timeout(20):
            while not isinstance(state := await state_of(broker, story), Ended):  # nobody is configured: it is rejected
                await asyncio.sleep(0.02)
        with pytest.raises(ConfigurationError, match="the session is ended"):
            settle.ending(state, "again")
        await app.close()
        # A session that accounts cannot judge: its service was away, and the operator decides.
        stuck = Story()
        await append(hub, stuck.requested())
        act = settle.ending(await state_of(broker, stuck), "nobody will come")
        assert act.service == "accounts"
        asked = asyncio.create_task(settle.ask(hand(broker, guarded), act))
        again = build(guarded, accounts)
        await again.start()
        assert (await asked).startswith(("done: ", "asked; "))
        async with asyncio.timeout(20):
            while not isinstance(await state_of(broker, stuck), Ended):
                await asyncio.sleep(0.02)
        await again.close()


async def test_a_dead_letter_is_listed_retried_by_its_service_and_discarded(guarded: Configuration) -> None:
    story = Story()
    obeyed: list[SessionAct] = []
    done = asyncio.Event()
    async with (
        signed_in(guarded, "hub-bridge") as hub,
        signed_in(guarded, "accounts") as accounts,
        signed_in(guarded, "operator-cli") as broker,
    ):
        await append(hub, story.requested())
        where = SUBJECTS.session_event(story.requested())
        for subject in (where, "elsewhere"):
            reasons = {"Farlab-Reason": "failed 6 times", "Farlab-Subject": subject}
            await accounts.log.dead_letter(SUBJECTS.dead_letter("accounts", "start-requested"), b"{}", reasons)
        found = await dead_letters.read(broker.log)
        assert [(each.letter.sequence, each.session, each.state) for each in found] == [
            (1, story.session, "open"),
            (2, "", "open"),
        ]
        assert (await letters(broker.log))[0].body == b"{}"

        app = build(guarded, accounts)
        following = app.sessions._follow_order

        async def follow(act: SessionAct) -> None:
            await following(act)
            obeyed.append(act)
            done.set()

        app.sessions._acts._obey = follow
        await app.start()
        [one] = dead_letters.chosen(found, [1], every=False)
        assert "is asked to decide" in await dead_letters.retry(hand(broker, guarded), one, "the disk is back")
        assert "discard it" in await dead_letters.retry(hand(broker, guarded), found[1], "the disk is back")
        await dead_letters.discard(hand(broker, guarded), found[1], "a test by hand")
        async with asyncio.timeout(20):
            await done.wait()
        await app.close()
        assert isinstance(obeyed[0], DeadLetterRetried)
        assert isinstance(await state_of(broker, story), Ended)
        states = [each.state for each in await dead_letters.read(broker.log)]
        assert states == ["retried", "discarded"]
        assert dead_letters.chosen(await dead_letters.read(broker.log), [], every=True) == []
    with pytest.raises(ConfigurationError, match="no dead letter 9"):
        dead_letters.chosen(found, [9], every=False)


async def test_secrets_of_ended_sessions_are_purged_by_name_and_the_log_says_so(guarded: Configuration) -> None:
    live, over = Story(), Story(user="ben")
    async with signed_in(guarded, "hub-bridge") as hub, signed_in(guarded, "accounts") as accounts:
        sealed = Vault(hub.vault, guarded.keys_folder, "hub-bridge")
        for story in (live, over):
            await append(hub, story.requested())
            await sealed.put(story.session, "tunneler", {"token": "canary"})
        await append(accounts, over.ended())
    async with signed_in(guarded, "operator-cli") as broker:
        names = await broker.vault.keys()
        states: dict[str, SessionState] = {
            live.session: await state_of(broker, live),
            over.session: await state_of(broker, over),
        }
        found = vault.entries(names, states)  # type: ignore[arg-type]
        chosen = vault.chosen(found, [], ended=True)
        assert [each.name for each in chosen] == [f"{over.session}.tunneler"]
        await vault.purge(hand(broker, guarded), broker.vault, chosen, "left over")
        assert await broker.vault.keys() == [f"{live.session}.tunneler"]
        [act] = await broker.log.history("ACTS", SUBJECTS.family("act"))
        assert isinstance(act.message, SecretsPurged)
        assert (act.message.names, act.message.reason) == ([f"{over.session}.tunneler"], "left over")
    with pytest.raises(ConfigurationError, match="holds nothing named 'x'"):
        vault.chosen(found, ["x"], ended=False)


def test_only_an_admitted_session_without_a_job_adopts_one() -> None:
    story = Story()
    admitted = fold([story.requested(), story.admitted()])
    assert isinstance(admitted, Admitted)
    act = settle.adoption(admitted, "job-7", "seen at the site")
    assert (act.service, act.job, act.session) == ("hpc-launcher", "job-7", story.session)
    cancelling = fold([story.requested(), story.admitted(), story.stop()])
    assert isinstance(cancelling, Cancelling)
    assert settle.adoption(cancelling, "job-7", "seen").job == "job-7"
    created = fold([story.requested(), story.admitted(), story.created()])
    assert isinstance(created, Created)
    with pytest.raises(ConfigurationError, match="takes no job"):
        settle.adoption(created, "job-7", "seen")
    assert settle.ending(created, "the site is gone").service == "hpc-launcher"


async def test_the_commands_as_typed(guarded: Configuration) -> None:
    file = guarded.file
    drained = await farlab(file, "system", "drain", "demo-hpc", "--reason", "cooling", "--yes")
    unasked = await farlab(file, "system", "resume", "demo-hpc", "--reason", "done")
    listed, letter, sealed, wrong = await asyncio.gather(
        farlab(file, "system", "list", "--json"),
        farlab(file, "dead-letters", "list", "--json"),
        farlab(file, "vault", "list", "--json"),
        farlab(file, "dead-letters", "show", "7"),
    )
    assert (drained[0], drained[1].splitlines()[-1]) == (0, "demo-hpc: system drained")
    assert (unasked[0], "add --yes" in unasked[2]) == (2, True)
    assert json.loads(listed[1])[0]["drained"] == "cooling"
    assert (json.loads(letter[1]), json.loads(sealed[1])) == ([], [])
    assert (wrong[0], "there is no dead letter 7" in wrong[2]) == (2, True)
