"""HTTP requests to a vLLM server, which may be slow, fail, drop a connection or restart."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from algos.rollout.engine import EngineError

T = TypeVar("T")
KEEPALIVE_S = 3.0
"""Idle connections are closed after this many seconds; vLLM closes them after five."""


class TransientError(Exception):
    """An attempt failed and the next one may succeed: no answer, an incomplete answer, or an error of the server."""


class PermanentError(EngineError):
    """The server rejected the request, and would reject it again."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Requests to one server, from any number of threads.

    Args:
        url: ``http(s)://host:port``, which may be followed by a path.
        request_s: An attempt fails after this many seconds without an answer.
        retry_s: :meth:`retry` gives up after this many seconds of failed attempts.

    Attributes:
        faults: Number of attempts that failed so far.
        on_fault: Called after each failed attempt; it may repair what is broken.
    """

    def __init__(self, url: str, request_s: float, retry_s: float) -> None:
        self.url, self.retry_s = url, retry_s
        self.faults = 0
        self.on_fault: Callable[[], None] = lambda: None
        key = os.environ.get("VLLM_API_KEY")
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else None,
            timeout=request_s,
            limits=httpx.Limits(keepalive_expiry=KEEPALIVE_S),
            verify=ssl.create_default_context(),  # the certificates that this machine trusts
            trust_env=False,  # a proxy for the Internet does not reach a server of the same cluster
        )

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Sends one request and returns the answer: JSON parsed, anything else as text.

        Raises:
            TransientError: Another attempt may succeed.
            PermanentError: Another attempt would fail too.
        """
        what = f"{method} {path}"
        try:
            response = self.http.request(method, path, json=body)
            if response.is_success:
                return response.json() if "json" in response.headers.get("Content-Type", "") else response.text
        except (httpx.RequestError, ValueError) as error:
            raise TransientError(f"{what}: {str(error) or type(error).__name__}") from error
        status = response.status_code
        answer = f"{what} answered {status}: {' '.join(response.text.split())[:200]}"
        if status >= 500 or status in (408, 429):
            raise TransientError(answer)
        raise PermanentError(status, f"engine.url {self.url}: {answer}")

    def retry(self, attempt: Callable[[], T]) -> T:
        """Repeats ``attempt`` while it raises :class:`TransientError`, after waits that grow from 0.1 to 5 seconds.

        Raises:
            EngineError: It has failed for ``retry_s`` seconds.
        """
        deadline, wait = None, 0.1
        while True:
            try:
                return attempt()
            except TransientError as error:
                self.faults += 1
                deadline = deadline or time.monotonic() + self.retry_s
                if time.monotonic() + wait > deadline:
                    raise EngineError(f"engine.url {self.url}: gave up after {self.retry_s:g} s; {error}") from error
            self.on_fault()
            time.sleep(wait)
            wait = min(2 * wait, 5.0)

    def request_with_retry(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """:meth:`request`, repeated as :meth:`retry` does."""
        return self.retry(lambda: self.request(method, path, body))
