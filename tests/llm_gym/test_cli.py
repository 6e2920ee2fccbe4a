"""The command ``llm-gym``: its help, its errors (one line, status 2, before torch is imported), and ``play``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from algos.config.scripts import scripts
from llm_gym import cli
from llm_gym.arguments import LONGEST, die, read_value
from llm_gym.env import TextEnv

COMMANDS = [name for commands in cli.GROUPS.values() for name in commands]
ERRORS = {
    "--bogus": "unknown option --bogus; known are --help, --version",
    "evl": "no command 'evl'; did you mean eval?",
    "envs now": "unexpected argument 'now'",
    "eval --bogus": "unknown option --bogus; known are --help, --model, --policy",
    "eval --polcy random": "did you mean --policy?",
    "eval": "one of the arguments --model --policy is required",
    "eval --policy random --max_turns 3": "unknown option --max_turns; did you mean --rollout.max_turns?",
    "eval --policy random --rollout.max_new_tokenz 3": "did you mean rollout.max_new_tokens?",
    "eval --policy random --env.seat": "--env.seat needs a value",
    "eval --policy random --samples 0": "whole number of at least 1, not '0'",
    "tournament --players a b --temperature nan": "number of at least 0, not 'nan'",
    "tournament --players a a": "--players must name two or more different players",
    "play --bogus x": "required: ID; usage: llm-gym play ID",
    "play TicTacToe": "did you mean llmgym/TicTacToe-v0?",
    "play llmgym/TicTacToe-v0 --opponnent first": "no setting 'opponnent'; did you mean opponent?",
    "play llmgym/MBPP-v0 --timeout 0.5": "no setting 'timeout'; did you mean timeout_s?",
    "play llmgym/TicTacToe-v0 --seat": "--seat needs a value",
    "play llmgym/TicTacToe-v0 --seat 7": "seat must be one of 0, 1",
    "play llmgym/Go-v0 --kommi 3": "komi",
    "train": "required: NAME",
    "train grp": "choose from",
    "train --config x": "choose from",
    "train grpo --run.max_stepz 3": "did you mean run.max_steps?",
    "train ppo --seed 3": "unknown option --seed; did you mean --run.seed?",
    "train sft --config grpo_tictactoe": "did you mean grpo_tictactoe_tiny?",
    "train spiral --profile auto --optim.lr -1": "optim.lr: Input should be greater than 0",
    "report nowhere": "nowhere holds no run",
    "merge x --dtype float32": "required: --out",
    "fetch": "usage: llm-gym fetch MODEL",
    "doctor --zero 7": "choose from 0, 1, 2, 3",
    "configs --all": "unknown option --all",
    "completion fish": "choose from",
}


def run(program: str, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLM_GYM_") or "__" not in name}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=cwd, env=env)


PROGRAM = """
import contextlib, io, json, sys
from llm_gym import cli
answers = []
for case in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(case.split())
            status = 0
        except SystemExit as ended:
            status = ended.code
    heavy = [name for name in ("torch", "transformers", "accelerate", "pyspiel") if name in sys.modules]
    answers.append([status, out.getvalue(), err.getvalue(), [] if "Go-v0" in case else heavy])
    sys.modules.pop("pyspiel", None)
print(json.dumps(answers))
"""


def test_an_error_is_one_line_with_status_2_and_imports_no_torch(tmp_path: Path) -> None:
    done = run(PROGRAM, tmp_path, json.dumps(list(ERRORS)))
    assert done.returncode == 0, done.stderr
    for (case, told), (status, out, err, heavy) in zip(ERRORS.items(), json.loads(done.stdout), strict=True):
        assert (status, out, heavy) == (2, "", []), case
        assert err.startswith("error: "), case
        assert err.count("\n") == 1, case
        assert told in err, case
        assert len(err) <= LONGEST + 1, case


def test_every_command_has_help_with_its_purpose_and_no_torch(tmp_path: Path) -> None:
    done = run(PROGRAM, tmp_path, json.dumps([f"{name} --help" for name in COMMANDS]))
    purposes = {name: text for commands in cli.GROUPS.values() for name, text in commands.items()}
    for name, (status, out, err, heavy) in zip(COMMANDS, json.loads(done.stdout), strict=True):
        assert (status, err, heavy) == (0, "", [])
        assert out.startswith(f"usage: llm-gym {name}")
        assert purposes[name] in out.replace("\n", " ").lower() or purposes[name].lower() in out.lower()


def test_the_help_shows_every_command_in_its_group_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    shown = said.partition("options:")[0]
    for group, commands in cli.GROUPS.items():
        assert f"\n{group}:\n" in shown
        for name, text in commands.items():
            assert f"\n  {name:12}{text}\n" in shown
    assert "examples:\n  llm-gym play " in said
    with pytest.raises(SystemExit):
        cli.main([])
    assert capsys.readouterr().out == said


def test_every_example_of_the_help_is_a_command_line_that_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    parsers = cli.build()[1]
    texts = [cli.EXAMPLES, *(parser.epilog or "" for parser in parsers.values())]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.startswith("  llm-gym")]
    assert len(lines) >= 12
    for line in lines:
        _, name, *words = shlex.split(line)
        assert cli.read([name, *words]).command == name


def test_the_environments_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["envs"])
    lines = capsys.readouterr().out.splitlines()
    assert "llmgym/TicTacToe-v0" in lines
    assert "llmgym/KuhnPoker-v0  game=kuhn_poker" in lines


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False),
        ("6.5", 6.5),
        ("0.5", 0.5),
        ("-3", -3),
        ("1e-6", 1e-6),
        ("[random, minimax]", ["random", "minimax"]),
        ("{progress: 1.0}", {"progress": 1.0}),
        ("null", None),
        ("None", None),
        ("minimax(epsilon=0.5)", "minimax(epsilon=0.5)"),
        ("breakthrough(rows=6,columns=6)", "breakthrough(rows=6,columns=6)"),
        ("go(board_size=7)", "go(board_size=7)"),
        ("penalty:0.1", "penalty:0.1"),
        ("", ""),
        ("[1", "[1"),
        ("@home", "@home"),
    ],
)
def test_values_mean_what_yaml_says(text: str, value: Any) -> None:
    read = read_value(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("llmgym/TicTacToe-v0 --show-legal false --seat 1", {"show_legal": False, "seat": 1}),
        ("llmgym/TicTacToe-v0 --show_legal=true", {"show_legal": True}),
        ("llmgym/MBPP-v0 --timeout-s 0.5", {"timeout_s": 0.5}),
        ("llmgym/Go-v0 --komi 6.5 --seed 3", {"komi": 6.5}),
    ],
)
def test_settings_of_play_reach_the_environment_as_values(
    words: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: "")
    make, made = gymnasium.make, []
    monkeypatch.setattr(
        gymnasium, "make", lambda *given, **named: made.append((make(*given, **named), named)) or made[0][0]
    )
    cli.main(["play", *words.split()])
    ((_, named),) = made
    assert {name: named[name] for name in settings} == settings
    assert all(type(named[name]) is type(value) for name, value in settings.items())
    assert set(named) == {*settings, "action_format", "on_invalid"}
    capsys.readouterr()


def test_a_game_is_played_to_its_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Against a list of opponents, of which each episode has one."""
    replies = iter("801234567" * 9)
    monkeypatch.setattr("builtins.input", lambda prompt: next(replies))
    cli.main(["play", "llmgym/TicTacToe-v0", "--opponent", "[first, random]", "--seed", "7"])
    said = capsys.readouterr().out
    assert "You are X." in said
    assert said.splitlines()[-1].split(",")[0] in ("win", "loss", "draw")
    env = gymnasium.make("llmgym/TicTacToe-v0", opponent=read_value("[first, random]")).unwrapped
    assert isinstance(env, TextEnv)
    assert len(env._opponents) == 2


def test_an_error_never_exceeds_500_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        die("a\nb " * 1000)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: a b a b")
    assert (len(said), said.count("\n")) == (LONGEST + 1, 1)


WITHOUT = """
import sys
for name in ("torch", "transformers", "accelerate", "pydantic", "peft"):
    sys.modules[name] = None
from llm_gym import cli
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("words", ["eval --policy random", "train grpo", "configs", "merge a --out b"])
def test_without_the_trainers_packages_a_command_names_the_extra(words: str, tmp_path: Path) -> None:
    done = run(WITHOUT, tmp_path, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith('needs pip install "llm-gym[train]"\n')


def test_without_the_trainers_packages_help_and_doctor_work(tmp_path: Path) -> None:
    assert "llm-gym COMMAND" in run(WITHOUT, tmp_path, "--help").stdout
    doctor = run(WITHOUT, tmp_path, "doctor")
    assert doctor.returncode == 0, doctor.stderr
    assert "train            no: pip install llm-gym[train]" in doctor.stdout
    refused = run(WITHOUT, tmp_path, "doctor", "--optim.lr", "1")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_knows_commands_trainers_and_settings(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    cli.main(["completion", shell])
    script = capsys.readouterr().out
    for word in (*COMMANDS, *scripts(), "--run.max_steps", "--optim.lr", "--rollout.max_new_tokens", "--policy"):
        assert word in script


def test_bash_completes_a_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    cli.main(["completion", "bash"])
    (tmp_path / "completion.bash").write_text(capsys.readouterr().out)
    ask = (
        "source completion.bash; COMP_WORDS=(llm-gym train grpo --run.max); COMP_CWORD=3; COMPREPLY=(); "
        '_shtab_llm_gym; echo "${COMPREPLY[*]}"'
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "--run.max_steps", done.stderr
