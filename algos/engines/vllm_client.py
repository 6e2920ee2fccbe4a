"""HTTP to a server that may be slow, fail, be cut off or be restarted; and such a server as a process of ours."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from algos.engines.base import EngineError

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


class ServerProcess:
    """A server that we started: it is started again should it die, and ends when we do, however that happens.

    Args:
        command: Its command line.
        env: Its environment.
        log: The file that its output is appended to.
        client: Asks it for its health.
        start_s: It must be healthy after so many seconds.
    """

    def __init__(self, command: list[str], env: dict[str, str], log: Path, client: Client, start_s: float) -> None:
        self.command, self.env, self.log, self.client, self.start_s = command, env, log, client, start_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)
        self.revive()

    def revive(self) -> None:
        """Starts it if it does not run, and waits until it answers.

        Raises:
            EngineError: It ended, or did not answer in time.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                    self.command,
                    env=self.env,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for the trainer, which ends the server in the end
                    preexec_fn=_end_with_parent,
                )
            deadline = time.monotonic() + self.start_s
            while True:
                with contextlib.suppress(Faulty, Refused):
                    self.client.once("GET", "/health")
                    return
                if self._process.poll() is not None:
                    raise EngineError(f"engine.start: the vLLM server ended at once: {self._last_line()}")
                if time.monotonic() > deadline:
                    self.close()
                    raise EngineError(
                        f"engine.start: no answer after engine.start_s {self.start_s:g} s; see {self.log}"
                    )
                time.sleep(0.5)

    def close(self) -> None:
        """Ends it, and all processes that it started."""
        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _last_line(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if "Error" in line]
        return f"{lines[-1].strip() if lines else 'it says nothing'} (see {self.log})"


def _end_with_parent() -> None:
    """Asks Linux to send this process a SIGTERM when its parent dies, be it by SIGKILL."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
