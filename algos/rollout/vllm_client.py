"""HTTP to a server that may be slow, fail, be cut off or be restarted."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from algos.rollout.engine import EngineError

T = TypeVar("T")
IDLE_S = 3.0
"""A connection is not used again after so many idle seconds; vLLM closes it after five."""


class Faulty(Exception):
    """An attempt failed in a way that the next one may not: no answer, half an answer, or a fault of the server's."""


class Refused(Exception):
    """The server answered that the request is wrong; asking again changes nothing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Requests to one server, from any number of threads, over connections that are kept.

    Args:
        url: ``http(s)://host:port``, a path after it allowed.
        request_s: An attempt fails after so many seconds without an answer.
        retry_s: :meth:`patiently` gives up after failing for so many seconds.

    Attributes:
        faults: Number of attempts that failed so far.
        on_fault: Called after each of them; it may repair what is broken.
    """

    def __init__(self, url: str, request_s: float, retry_s: float) -> None:
        parts = urlsplit(url)
        self.url, self.request_s, self.retry_s = url, request_s, retry_s
        self.faults = 0
        self.on_fault: Callable[[], None] = lambda: None
        self._type = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._address, self._prefix = parts.netloc, parts.path.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            self._headers["Authorization"] = f"Bearer {key}"
        self._idle: deque[tuple[http.client.HTTPConnection, float]] = deque()

    def once(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request; the answer as JSON, or as text where it is none.

        Raises:
            Faulty: Another attempt may succeed.
            Refused: It cannot.
        """
        what, connection = f"{method} {path}", self._connection()
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, self._prefix + path, data, self._headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Faulty(f"{what}: {error or type(error).__name__}") from error
        if response.status < 500 and not response.will_close:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.close()
        text = content.decode("utf-8", "replace")
        if response.status >= 400:
            answer = f"{what} answered {response.status}: {' '.join(text.split())[:300]}"
            raise (
                Faulty(answer)
                if response.status >= 500 or response.status in (408, 429)
                else Refused(response.status, answer)
            )
        if "json" not in (response.getheader("Content-Type") or ""):
            return text
        try:
            return json.loads(text)
        except ValueError as error:
            raise Faulty(f"{what}: {error}") from error

    def patiently(self, attempt: Callable[[], T]) -> T:
        """Repeats ``attempt`` while it is :class:`Faulty`, after waits that grow from 0.1 to 5 seconds.

        Raises:
            EngineError: It has failed for ``retry_s`` seconds.
        """
        deadline, wait = None, 0.1
        while True:
            try:
                return attempt()
            except Faulty as error:
                self.faults += 1
                deadline = deadline or time.monotonic() + self.retry_s
                if time.monotonic() + wait > deadline:
                    raise EngineError(f"engine.url {self.url}: gave up after {self.retry_s:g} s; {error}") from error
            self.on_fault()
            time.sleep(wait)
            wait = min(2 * wait, 5.0)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """:meth:`once`, patiently."""
        return self.patiently(lambda: self.once(method, path, body))

    def _connection(self) -> http.client.HTTPConnection:
        with contextlib.suppress(IndexError):  # all are in use
            while True:
                connection, used = self._idle.pop()
                if time.monotonic() - used < IDLE_S:
                    return connection
                connection.close()
        return self._type(self._address, timeout=self.request_s)
