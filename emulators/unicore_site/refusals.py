"""How an emulated site says no: an HTTP status with UNICORE's error body. Decides nothing."""

from __future__ import annotations

from aiohttp import web


class RefusedError(Exception):
    """The call is refused with an HTTP status and words; without words the answer has no body."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)

    def response(self) -> web.Response:
        """The answer."""
        return error(self.status, self.message)


def error(status: int, message: str) -> web.Response:
    """UNICORE's error body, or no body at all."""
    if not message:
        return web.Response(status=status)
    return web.json_response({"status": status, "errorMessage": message}, status=status)
