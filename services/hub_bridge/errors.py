"""Why a start did not come about, in the form JupyterHub shows to people and answers to programs."""

from __future__ import annotations

from jupyterhub.spawner import SpawnException
from markupsafe import Markup

from schemas.session import SessionEnded
from services.hub_bridge.progress import failure_html, failure_text


class StartError(SpawnException):  # type: ignore[misc]
    """The server was not started: what is wrong and what helps, in one line.

    JupyterHub shows `jupyterhub_message`, or `jupyterhub_html_message` where HTML is possible, and counts `reason`,
    which is one of few words. It logs one line and no traceback.
    """

    def __init__(self, text: str, *, reason: str, status_code: int = 400, html: Markup | None = None) -> None:
        super().__init__(text, reason=reason, status_code=status_code)
        self.jupyterhub_message = text
        if html is not None:
            self.jupyterhub_html_message = str(html)


class SessionEndedError(StartError):
    """The session ended before its server was ready; `again` is where a better sign-in would help."""

    def __init__(self, end: SessionEnded, again: str = "") -> None:
        self.end = end
        super().__init__(
            failure_text(end),
            reason=end.outcome,
            status_code=403 if end.outcome == "rejected" else 500,
            html=failure_html(end, again),
        )
        if again:
            self.jupyterhub_message = ""  # the form shows the HTML, with its link, where there is no plain text


class LogAwayError(StartError):
    """The event log does not answer."""

    def __init__(self) -> None:
        super().__init__(
            "Servers cannot be started right now: the event log does not answer. Try again in a minute; "
            "if it stays so, tell your support.",
            reason="log-away",
            status_code=503,
        )


class NotAnsweringError(StartError):
    """The server can be reached and does not answer."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The server runs but did not answer within {seconds:g} s. Start it again; "
            "if that does not help, look for errors in what your server loads at its start.",
            reason="not-answering",
            status_code=504,
        )


class TooLateError(StartError):
    """The deadline of the start has passed and nobody ended the session."""

    def __init__(self) -> None:
        super().__init__(
            "The server did not start before its deadline. Start it again, or choose a partition with a shorter queue.",
            reason="expired",
            status_code=504,
        )
