from __future__ import annotations

import pytest

from schemas.lifecycle import SessionState, fold
from schemas.session import SessionEvent, TunnelLost, TunnelReady
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError
from services.tunneler.decide import CloseTunnel, OpenTunnel, decide, give_up
from tests.support.samples import HUB, SYSTEM, Story

STORY = Story()
LOST = TunnelLost(hub=HUB, system=SYSTEM, session=STORY.session, generation=1, reason="cut")
BEGINNING = [STORY.requested(), STORY.admitted(), STORY.created(), STORY.submitted()]
LISTENING = [*BEGINNING, STORY.listening()]
REACHABLE = [*LISTENING, STORY.tunnel()]
READY = [*REACHABLE, STORY.ready()]


def state(events: list[SessionEvent]) -> SessionState:
    return fold(events)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", range(5))
def test_nothing_is_done_before_a_server_listens(length: int) -> None:
    assert decide(state(BEGINNING[:length]), None) == []


@pytest.mark.parametrize(
    ("events", "generation", "for_user"),
    [(LISTENING, 1, False), ([*REACHABLE, LOST], 2, False), ([*READY, LOST], 2, True)],
)
def test_a_server_without_a_tunnel_gets_one_of_the_next_generation(
    events: list[SessionEvent], generation: int, for_user: bool
) -> None:
    assert decide(state(events), None) == [
        Perform(OpenTunnel(STORY.requested(), STORY.admitted(), "job-1", STORY.listening(), generation, for_user))
    ]


@pytest.mark.parametrize("events", [REACHABLE, READY, [*READY, STORY.stop()], [*READY, STORY.stop(), STORY.ended()]])
def test_a_tunnel_that_stands_or_is_of_no_use_any_more_is_left_alone(events: list[SessionEvent]) -> None:
    assert decide(state(events), None) == []


def stray() -> TunnelReady:
    return TunnelReady(hub=HUB, system=SYSTEM, session=STORY.session, host="h", port=1, generation=1, replica="another")


@pytest.mark.parametrize("events", [REACHABLE, READY, [*READY, STORY.stop()], [*READY, STORY.stop(), STORY.ended()]])
def test_a_tunnel_built_in_vain_is_closed(events: list[SessionEvent]) -> None:
    assert decide(state(events), stray()) == [Perform(CloseTunnel(STORY.requested()))]


def test_a_server_that_can_never_be_reached_stops_its_session_with_the_reason() -> None:
    steps = give_up(state(LISTENING), PermanentError("target-refused", "It is refused.", "Ask."))
    assert len(steps) == 1
    assert isinstance(steps[0], Emit)
    assert "It is refused. Ask." in steps[0].event.reason  # type: ignore[attr-defined]
    assert give_up(state(READY), PermanentError("x", "y", "z")) == []
