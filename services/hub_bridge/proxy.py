"""JupyterHub's Python proxy with answers passed on as they come: `python -m services.hub_bridge.proxy`. Knows no route.

configurable-http-proxy 0.4 for Python holds every answer back until it is complete, gives up after 20 seconds, and asks
no more than ten servers at once: a page that follows a start would see nothing, and ten of them would block everybody.
Everything but the passing on of requests is that package's; its command line stays the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
from configurable_http_proxy import cli, configproxy
from configurable_http_proxy.handlers import ProxyHandler
from tornado.iostream import StreamClosedError
from yarl import URL

CONNECT_SECONDS = 10.0
HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect")
)
"""Headers that are for one connection only (RFC 9110, 7.6.1)."""
NOT_OURS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers the client library would add where the browser sent none."""


class StreamingHandler(ProxyHandler):  # type: ignore[misc]
    """Passes a request on and its answer back, piece by piece, for as long as both sides stay."""

    _passing: asyncio.Task[None] | None = None

    async def call_proxy(self, path: str | None = None) -> None:
        """Answers with what the target answers; 503 when it cannot be reached."""
        url = await self.get_target_url(path)
        if url is None:
            return
        self._passing = asyncio.current_task()
        try:
            await self._pass_on(url)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if self._headers_written:
                self._break_off()
            else:
                await self.handle_proxy_error(503, error)
        except StreamClosedError:
            pass  # the browser went away
        except asyncio.CancelledError:
            if not self.request.connection.stream.closed():
                raise
        finally:
            self._passing = None

    async def _pass_on(self, url: str) -> None:
        body = self.request.body or None
        headers = self._get_proxy_request(url).headers
        dropped = HOP_BY_HOP | {"content-length"}
        kept = {name: value for name, value in headers.items() if name.lower() not in dropped}
        async with _session(self.proxy).request(
            self.request.method,
            URL(url, encoded=True),
            headers=kept,
            data=body,
            allow_redirects=False,
            skip_auto_headers=NOT_OURS,
        ) as answer:
            self.set_status(answer.status, answer.reason)
            for name in ("Server", "Content-Type", "Date"):
                self.clear_header(name)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    self.add_header(name, value)
            if answer.status not in (204, 304) and self.request.method != "HEAD":
                await self.flush()
                async for piece in answer.content.iter_any():
                    self.write(piece)
                    await self.flush()
            await self.finish()

    def _break_off(self) -> None:
        """Ends the connection: the only way to say that an answer that has begun is not complete."""
        with contextlib.suppress(StreamClosedError):
            self.request.connection.stream.close()

    def on_connection_close(self) -> None:
        """The browser went away: so does the request to the target."""
        super().on_connection_close()
        if self._passing is not None:
            self._passing.cancel()


def _session(proxy: Any) -> aiohttp.ClientSession:
    """The proxy's connections to its targets, without limit in number or time."""
    session = getattr(proxy, "farlab_session", None)
    if session is None:
        session = proxy.farlab_session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=proxy.proxy_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
    return session


def main() -> None:
    """The package's own command line, with our handler in the place of its own."""
    configproxy.ProxyHandler = StreamingHandler
    cli.main()


if __name__ == "__main__":
    main()
