"""`llm-gym fetch`, from a hub that runs here, and what an offline node then finds."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from algos.cluster import fetch, offline
from llm_gym import cli
from llm_gym.games.mbpp.dataset import read_tasks

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """The requests of the Hugging Face hub's API that a download makes, for one model."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        files = {path.name: path.stat().st_size for path in self.folder.iterdir()}
        if self.path.startswith("/api/models/tests/tiny/tree/"):
            found = {**files, "pytorch_model.bin": 1}
            entries = [{"type": "file", "path": file, "size": size, "oid": "0"} for file, size in found.items()]
            self.answer(json.dumps(entries).encode())
        elif self.path.startswith("/api/models/tests/tiny/"):
            self.answer(json.dumps({"id": "tests/tiny", "sha": COMMIT}).encode())
        elif self.path.startswith(f"/tests/tiny/resolve/{COMMIT}/") and name in files:
            self.answer((self.folder / name).read_bytes())
        else:
            self.send_error(404)

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(tiny_folder: Path) -> Iterator[tuple[str, list[str]]]:
    Hub.folder, Hub.asked = tiny_folder, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Hub.asked
    server.shutdown()


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    return subprocess.run(
        [sys.executable, "-c", code], env=env | environment, capture_output=True, text=True, timeout=300
    )


def test_what_was_fetched_loads_where_there_is_no_network(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = hub
    home = {"HF_HOME": str(tmp_path / "cache with a space"), "HF_ENDPOINT": address}
    command = "from llm_gym.cli import main; main(['fetch', 'tests/tiny'])"
    fetched = run(command, **home)
    assert fetched.returncode == 0, fetched.stderr
    assert not any("pytorch_model.bin" in path for path in asked)  # the weights once
    lines = dict(line.removeprefix("export ").split("=", 1) for line in fetched.stdout.splitlines() if "export" in line)
    assert lines.keys() == {*offline.VARIABLES, "HF_HOME"}
    exports = subprocess.run(
        ["bash", "-c", f"{fetched.stdout.partition('#')[2].partition(chr(10))[2]}\nenv"], capture_output=True, text=True
    )
    given = dict(line.split("=", 1) for line in exports.stdout.splitlines() if line.partition("=")[0] in lines)
    assert given["HF_HOME"] == home["HF_HOME"]
    asked.clear()
    load = "from algos.model.load import load_model; print(load_model('tests/tiny')[0].num_parameters() > 1e5)"
    loaded = run(load, HF_ENDPOINT=address, **given)
    assert (loaded.returncode, loaded.stdout.strip()) == (0, "True"), loaded.stderr
    assert asked == []


def test_a_model_that_is_not_there_is_one_line(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    command = "from llm_gym.cli import main; main(['fetch', 'tests/missing'])"
    ended = run(command, HF_HOME=str(tmp_path), HF_ENDPOINT=hub[0])
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: fetch tests/missing: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["fetch", "Qwen/Qwen3-0.6B", "mbpp"],
            "no network here (HF_HUB_OFFLINE is set): run `llm-gym fetch Qwen/Qwen3",
        ),
        (["fetch"], "usage: llm-gym fetch MODEL"),
        (["fetch", "Qwen3-0.6B"], "usage: llm-gym fetch MODEL"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_tasks_are_kept_as_a_file_that_reads_as_the_same_tasks(tmp_path: Path) -> None:
    tasks = read_tasks("own")
    fetch.write_tasks(tmp_path / "mbpp.jsonl", tasks)
    assert read_tasks(str(tmp_path / "mbpp.jsonl")) == tasks


def test_the_command_that_sends_offline_runs_names_them(tmp_path: Path) -> None:
    assert offline.sync_command(tmp_path) is None
    (tmp_path / "wandb" / "offline-run-20261120_1-abc").mkdir(parents=True)
    assert offline.sync_command(tmp_path) == f"wandb sync {tmp_path}/wandb/offline-run-20261120_1-abc"
