"""``llm-gym eval`` as one calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from algos.commands.eval import config_of
from algos.config.schema import PlayConfig
from llm_gym import cli


def run(tmp_path: Path, *words: str) -> list[dict[str, Any]]:
    out = tmp_path / "out.json"
    cli.main(["eval", *words, "--json", str(out)])
    return list(json.loads(out.read_text()))


def test_a_scripted_player_on_two_environments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    envs = ["llmgym/TicTacToe-v0", "llmgym/KuhnPoker-v0"]
    results = run(tmp_path, "--policy", "random", "--env", *envs, "--episodes", "20")
    assert [result["env"] for result in results] == envs
    for result in results:
        assert result["opponent"] == "random"
        assert sorted(result["seats"]) == ["0", "1"]
        assert {"episodes", "success_rate", "win_rate", "mean_return", "normalised_score"} <= set(result)
    assert "random on llmgym/KuhnPoker-v0 against random" in capsys.readouterr().out
    assert run(tmp_path, "--policy", "random", "--env", *envs, "--episodes", "20") == results
    assert run(tmp_path, "--policy", "random", "--env", *envs, "--episodes", "20", "--seed", "1") != results


def test_settings_reach_the_environment(tmp_path: Path) -> None:
    words = ["--policy", "minimax", "--opponent", "minimax", "--seat", "1", "--episodes", "4"]
    (result,) = run(tmp_path, *words, "--env.show_legal", "true")
    assert (result["draw_rate"], result["opponent"], "seats" in result) == (1.0, "minimax", False)
    assert result["settings"] == {"opponent": "minimax", "seat": 1, "show_legal": True}


def test_there_is_room_for_long_replies_and_settings_are_those_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def config(*words: str) -> PlayConfig:
        return config_of(cli.read(["eval", "--policy", "random", *words]), None)

    assert config().rollout.max_new_tokens == 512
    monkeypatch.setenv("LLM_GYM_ROLLOUT__MAX_NEW_TOKENS", "99")
    assert config().rollout.max_new_tokens == 99
    assert config("--rollout.max_new_tokens", "7").rollout.max_new_tokens == 7


def test_every_task_of_a_data_set(tmp_path: Path) -> None:
    words = ["--env", "llmgym/MBPP-v0", "--env.split", "test", "--episodes", "all"]
    (good,) = run(tmp_path, "--policy", "reference", *words)
    (bad,) = run(tmp_path, "--policy", "empty", *words)
    assert (good["success_rate"], good["problems"], bad["success_rate"]) == (1.0, 10, 0.0)


def test_exact_values_of_uniform_play(tmp_path: Path) -> None:
    (result,) = run(tmp_path, "--policy", "uniform", "--env", "llmgym/KuhnPoker-v0", "--exact", "--episodes", "2")
    assert result["nash_conv"] == pytest.approx(11 / 12)
    assert result["exact"]["value"] == pytest.approx([0.125, -0.125])


def test_a_run_is_compared_with_a_scripted_player_and_keeps_a_line(tiny_folder: Path, tmp_path: Path) -> None:
    from algos import grpo

    folder = tmp_path / "run"
    given = {"model.path": tiny_folder, "run.dir": folder, "run.max_steps": 0, "run.trackers": "[]", "eval.episodes": 0}
    given |= {"rollout.max_new_tokens": 8, "env.opponent": "first", "env.seat": 1}
    grpo.main([word for key, value in given.items() for word in (f"--{key}", str(value))])
    (result,) = run(tmp_path, "--model", str(folder), "--against", "minimax", "--episodes", "10")
    assert (result["settings"], result["opponent"]) == ({"opponent": "first", "seat": 1}, "first")
    assert result["against"]["success_difference"] < 0
    assert result["mean_reply_tokens"] <= 8  # as in the run
    kept = (folder / "evaluations" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == [result]
    (itself,) = run(tmp_path, "--model", str(folder), "--against", str(folder), "--episodes", "10")
    assert (itself["against"]["success_p"], itself["against"]["return_p"]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--policy nobody", "no scripted player"),
        ("--model nobody", "'nobody' is not a folder"),
        ("--policy random --model tiny", "not allowed with"),
        ("--policy random --env llmgym/Foo-v0", "Foo"),
        ("--policy random --episodes all", "no list of tasks"),
        ("--policy random --episodes -3", "whole number"),
        ("--policy random --env.foo 3", "foo"),
        ("--policy random --foo 3", "unknown option --foo; known are"),
        ("--policy minimax --exact", "--exact knows"),
        ("--policy random --env llmgym/PasswordGame-v0 --exact", "of games for two"),
        ("", "required"),
    ],
)
def test_mistakes_are_one_line(words: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["eval", *words.split()])
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told.count("\n") == 1
    assert why in told
