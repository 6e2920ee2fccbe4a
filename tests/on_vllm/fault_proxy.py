"""A proxy that makes a server slow, broken, cut off or forgetful of its answers, by plan."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["slow", "500", "cut", "lost", "swallowed"]


class Proxy(ThreadingHTTPServer):
    """Forwards to ``upstream``.

    Attributes:
        plan: A path -> what happens to the next requests to it. ``slow``: answered after ``delay_s``. ``500``: not
            forwarded. ``cut``: the connection ends in the middle of the answer. ``lost``: forwarded, never answered.
            ``swallowed``: said to be done, not forwarded.
        met: How often each fault happened.
        answered: How many requests to each path were answered whole.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, delay_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.delay_s = urlsplit(upstream).netloc, delay_s
        self.plan: dict[str, list[Fault]] = {}
        self.met: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next_fault(self, path: str) -> Fault | None:
        with self.lock:
            faults = self.plan.get(path)
            fault = faults.pop(0) if faults else None
            self.met[str(fault)] += 1
            return fault


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        self.forward()

    def do_POST(self) -> None:
        self.forward()

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        fault = self.server.next_fault(path)
        if fault == "500":
            self.answer(500, b"out of order")
            return
        if fault == "swallowed":
            self.answer(200, b"done")
            return
        if fault == "slow":
            time.sleep(self.server.delay_s)
        connection = http.client.HTTPConnection(self.server.upstream)
        try:
            connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # as if the server itself had gone
            return
        finally:
            connection.close()
        if fault == "lost":
            self.close_connection = True
            return
        self.answer(response.status, content, response.getheader("Content-Type", ""), cut=fault == "cut")
        if fault is None:
            with self.server.lock:
                self.server.answered[path] += 1

    def answer(self, status: int, content: bytes, kind: str = "text/plain", cut: bool = False) -> None:
        with contextlib.suppress(OSError):  # who was kept waiting may have left
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def proxy(upstream: str, delay_s: float = 0.0) -> Iterator[Proxy]:
    server = Proxy(upstream, delay_s)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
