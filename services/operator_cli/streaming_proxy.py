"""The Python configurable-http-proxy, made to pass answers on as they come. Its routes, API and options are its own.

As released (0.4.0) it collects a whole answer before it sends the first byte, for at most 20 s and from at most ten
servers at once, so that no progress of a start would reach a browser. Takes the same arguments as the original.
"""

from __future__ import annotations

from typing import Any

from configurable_http_proxy import configproxy
from configurable_http_proxy.cli import main as proxy_main
from configurable_http_proxy.handlers import ProxyHandler
from tornado.httpclient import AsyncHTTPClient
from tornado.httputil import HTTPHeaders, parse_response_start_line
from tornado.iostream import StreamClosedError

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "trailer", "te"})
CLIENTS = 10_000
MOST_BYTES = 16 * 1024**3


class StreamingProxyHandler(ProxyHandler):  # type: ignore[misc]
    """A request whose answer is passed on piece by piece."""

    async def call_proxy(self, path: str | None = None) -> None:
        """Asks the target; head and body go to the browser as they arrive."""
        url = await self.get_target_url(path)
        if url is None:
            return
        request = self._get_proxy_request(url)
        request.decompress_response = False
        request.request_timeout = 0.0
        request.header_callback = self._on_header
        request.streaming_callback = self._on_part
        self._lines: list[str] = []
        try:
            await AsyncHTTPClient().fetch(request, raise_error=False)
        except Exception as error:
            if not self._headers_written:
                await self.handle_proxy_error(503, error)
            elif self.request.connection is not None:
                self.request.connection.stream.close()
            return
        if not self._finished:
            self.finish()

    def _on_header(self, line: str) -> None:
        if line.strip():
            self._lines.append(line)
            return
        start = parse_response_start_line(self._lines[0].strip())
        headers = HTTPHeaders.parse("".join(self._lines[1:]))
        self._lines = []
        if start.code < 200:
            return
        self.set_status(start.code, start.reason)
        for name in ("Server", "Content-Type", "Date"):
            self.clear_header(name)
        for name, value in headers.get_all():
            if name.lower() not in HOP_BY_HOP:
                self.add_header(name, value)

    async def _on_part(self, part: bytes) -> None:
        self.write(part)
        try:
            await self.flush()
        except StreamClosedError:
            self._finished = True
            raise

    def compute_etag(self) -> None:
        """The target's business."""


def main() -> Any:
    """The command line of the original."""
    AsyncHTTPClient.configure(None, max_clients=CLIENTS, max_body_size=MOST_BYTES)
    configproxy.ProxyHandler = StreamingProxyHandler
    return proxy_main()


if __name__ == "__main__":
    main()
