"""The HTTP client: which failures it repeats, what it reports, when it keeps connections. tests/on_vllm has vLLM."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from algos.rollout import vllm_client
from algos.rollout.engine import EngineError
from algos.rollout.vllm_client import Client, PermanentError, TransientError

JSON = "application/json"


class Server(ThreadingHTTPServer):
    """Answers with the next item of ``plan``: status, content type, text; or what goes wrong.

    Attributes:
        connections: How many were opened.
        received: Path, authorization and body of each request.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[tuple[int, str, str] | str] = []
        self.received: list[tuple[str, str | None, Any]] = []
        self.connections = 0

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.received.append((self.path, self.headers.get("Authorization"), json.loads(body or "null")))
        planned = self.server.plan.pop(0) if self.server.plan else (200, JSON, '{"done": true}')
        if planned == "lost":
            self.close_connection = True
            return
        if planned == "slow":
            time.sleep(1.0)
        status, kind, text = (200, JSON, '{"done": true}') if isinstance(planned, str) else planned
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode()[: 3 if planned == "cut" else None])
        self.close_connection = planned == "cut"

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def client_of(server: Server, retry_s: float = 20.0) -> Client:
    return Client(f"http://127.0.0.1:{server.server_port}/below", request_s=0.3, retry_s=retry_s)


def test_an_answer_is_json_or_text_and_the_key_goes_along(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    client = client_of(server)
    assert client.request("POST", "/a?b=c", {"ids": [1, 2]}) == {"done": True}
    server.plan = [(200, "text/plain", '{"done": true}')]
    assert client.request("GET", "/a") == '{"done": true}'
    assert server.received == [
        ("/below/a?b=c", "Bearer secret", {"ids": [1, 2]}),
        ("/below/a", "Bearer secret", None),
    ]


@pytest.mark.parametrize(
    "failure",
    [
        *("lost", "cut", "slow"),
        *[(status, "text/plain", "out of order") for status in (408, 429, 500, 503)],
        (200, JSON, '{"half": '),
    ],
)
def test_a_failure_that_may_pass_is_repeated_and_counted(server: Server, failure: Any) -> None:
    client, repaired = client_of(server), []
    client.on_fault = lambda: repaired.append(client.faults)
    server.plan = [failure]
    with pytest.raises(TransientError, match=r"^POST /a"):
        client.request("POST", "/a", {})
    server.plan = [failure, failure]
    assert client.request_with_retry("POST", "/a", {}) == {"done": True}
    assert client.faults == 2
    assert repaired == [1, 2]


@pytest.mark.parametrize("status", [302, 400, 401, 404, 422])
def test_a_rejected_request_is_not_repeated(server: Server, status: int) -> None:
    client = client_of(server)
    server.plan = [(status, "text/plain", "no\n" * 1000)]
    with pytest.raises(PermanentError, match=rf"^engine.url {client.url}: POST /a answered {status}: no no") as error:
        client.request_with_retry("POST", "/a", {})
    assert error.value.status == status
    assert len(str(error.value)) < 300
    assert len(server.received) == 1


def test_it_gives_up_in_one_line_that_names_the_server(server: Server) -> None:
    client = client_of(server, retry_s=0.5)
    server.plan = [(500, "text/plain", "out\nof order")] * 100
    started = time.monotonic()
    with pytest.raises(EngineError, match=rf"^engine.url {client.url}: gave up after 0.5 s; .* 500: out of order$"):
        client.request_with_retry("GET", "/a")
    assert time.monotonic() - started < 5.0
    refused = Client("http://127.0.0.1:9", request_s=1.0, retry_s=0.0)
    with pytest.raises(EngineError, match=r"gave up after 0 s; GET /a: .*refused"):
        refused.request_with_retry("GET", "/a")


def test_threads_share_connections_that_are_kept(server: Server) -> None:
    client = client_of(server)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.request("POST", "/a", {}), range(200)))
    assert answers == [{"done": True}] * 200
    assert server.connections <= 8


def test_a_connection_that_the_server_may_have_closed_is_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vllm_client.KEEPALIVE_S < 5.0  # vLLM's own limit
    monkeypatch.setattr(vllm_client, "KEEPALIVE_S", 0.2)
    client = client_of(server)
    for _ in range(2):
        client.request("GET", "/a")
    assert server.connections == 1
    time.sleep(0.3)
    client.request("GET", "/a")
    assert server.connections == 2


def test_a_proxy_for_the_internet_is_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert client_of(server).request("GET", "/a") == {"done": True}
