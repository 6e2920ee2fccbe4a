"""MBPP as an evaluation of any run: reference solutions, empty replies, the environment variables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from algos.config.schema import Config
from algos.engines.base import Sample
from algos.errors import ConfigError
from algos.evaluation.evaluator import Evaluator, check_evaluations
from algos.evaluation.mbpp_variables import from_variables
from algos.evaluation.plan import evaluations
from algos.model.chat import Chat
from algos.model.load import load_model
from llm_gym.games.mbpp import read_tasks
from llm_gym.parsing import format_action

ENABLED = {"MBPP_EVAL_ENABLED": "1"}


@pytest.fixture(scope="module")
def chat(tiny_folder: Path) -> Chat:
    return Chat(load_model(tiny_folder)[1])


class Recited:
    """An engine that replies what is looked up for each prompt: tokens in, tokens out, as a model does."""

    version = 0

    def __init__(self, chat: Chat, replies: dict[str, list[str]]) -> None:
        self.chat, self.replies, self.max_new_tokens = chat, replies, 7
        self.lengths: list[int] = []
        self._given: dict[str, int] = {}

    def generate(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        self.lengths.append(self.max_new_tokens)
        return [self._sample(self.chat.tokenizer.decode(prompt)) for prompt in prompts]

    def _sample(self, prompt: str) -> Sample:
        text = next((text for text in self.replies if text in prompt), "")
        replies = self.replies.get(text, [""])
        number = self._given[text] = self._given.get(text, -1) + 1
        ids = [*self.chat.tokenizer.encode(replies[number % len(replies)]), self.chat.tokenizer.eos_token_id]
        return Sample(ids, [0.0] * len(ids), "stop")


def run(chat: Chat, replies: dict[str, list[str]], folder: Path, **settings: Any) -> tuple[dict[str, Any], Recited]:
    also = {"name": "mbpp", "id": "llmgym/MBPP-v0", "split": "test", "episodes": "all", **settings}
    config = Config.model_validate({"eval": {"episodes": 0, "exact": False, "extra": [also]}, "run": {"dir": folder}})
    engine = Recited(chat, replies)
    summary, metrics = Evaluator(config, engine, chat, Accelerator()).run(0, "before")
    assert metrics["mbpp/pass_rate"] == summary["extra"]["mbpp"]["pass_rate"]
    return summary["extra"]["mbpp"], engine


def solutions() -> dict[str, list[str]]:
    return {task.text: [format_action(task.code, "fence")] for task in read_tasks("own", "test")}


def test_reference_solutions_pass_and_empty_replies_fail(chat: Chat, tmp_path: Path) -> None:
    result, engine = run(chat, solutions(), tmp_path, max_new_tokens=99)
    assert (result["pass_rate"], result["problems_passed"], result["problems"]) == (1.0, 10, 10)
    assert result["task_ids"] == result["task_ids_passed"]
    assert set(engine.lengths) == {99}
    assert engine.max_new_tokens == 7  # as it was before
    empty, _ = run(chat, {}, tmp_path)
    assert (empty["pass_rate"], empty["problems_passed"], empty["success_rate_low"]) == (0.0, 0, 0.0)
    lines = [json.loads(line) for line in (tmp_path / "evaluations" / "mbpp_000000.jsonl").read_text().splitlines()]
    assert [line["info"]["task_id"] for line in lines] == empty["task_ids"]
    assert {line["outcome"] for line in lines} == {"failed"}


def test_samples_give_pass_at_k_by_task(chat: Chat, tmp_path: Path) -> None:
    """Of two of ten tasks one reply in four is right."""
    replies = {text: [*right, "", "", ""] for text, right in list(solutions().items())[:2]}
    result, _ = run(chat, replies, tmp_path, samples=4)
    assert result["episodes"] == 40
    assert (result["pass_at_1"], result["pass_at_2"], result["pass_at_4"]) == pytest.approx((0.05, 0.1, 0.2))
    assert result["problems_passed"] == 2


def test_fewer_questions_are_fixed_and_among_the_more(chat: Chat, tmp_path: Path) -> None:
    ids = [run(chat, {}, tmp_path, episodes=n)[0]["task_ids"] for n in (3, 3, 7)]
    assert ids[0] == ids[1] == ids[2][:3]
    assert len(set(ids[2])) == 7


def test_without_the_variable_there_is_no_evaluation() -> None:
    assert from_variables({}) is None
    assert from_variables({"MBPP_EVAL_ENABLED": "0", "MBPP_TEMPERATURE": "hot"}) is None


def test_the_variables_are_heard() -> None:
    told = from_variables(
        ENABLED
        | {"MBPP_EVAL_NUM_QUESTIONS": "5", "MBPP_EVAL_AT_START": "0", "MBPP_EVAL_AT_END": "true"}
        | {"MBPP_EVAL_INTERVAL_STEPS": "25", "MBPP_MAX_NEW_TOKENS": "300", "MBPP_TEMPERATURE": "0.7"}
        | {"MBPP_RESULTS_DIR": "/results"}
    )
    assert told is not None
    assert (told.name, told.episodes, told.before, told.after, told.every) == ("mbpp_eval", 5, False, True, 25)
    assert (told.max_new_tokens, told.temperature, told.details) == (300, 0.7, Path("/results"))


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("MBPP_EVAL_ENABLED", "maybe", "1 or 0"),
        ("MBPP_EVAL_NUM_QUESTIONS", "None", "a whole number of at least 1"),
        ("MBPP_EVAL_NUM_QUESTIONS", "0", "a whole number of at least 1"),
        ("MBPP_EVAL_INTERVAL_STEPS", "-5", "a whole number of at least 0"),
        ("MBPP_TEMPERATURE", "nan", "a number of at least 0"),
        ("MBPP_MAX_NEW_TOKENS", "1.5", "a whole number of at least 1"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(name: str, value: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"environment variable {name} must be {right}, not '{value}'"):
        from_variables({**ENABLED, name: value})


def test_the_variables_go_before_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    also = [{"name": "mbpp_eval", "id": "llmgym/MBPP-v0", "episodes": 3}]
    config = Config.model_validate({"eval": {"extra": also}})
    monkeypatch.setenv("MBPP_EVAL_ENABLED", "1")
    monkeypatch.setenv("MBPP_EVAL_NUM_QUESTIONS", "8")
    assert [(one.name, one.episodes) for one in evaluations(config)] == [("eval", 400), ("mbpp_eval", 8)]


def test_it_is_checked_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MBPP_EVAL_ENABLED", "1")
    check_evaluations(Config())
    assert [one.name for one in evaluations(Config())] == ["eval", "mbpp_eval"]
    monkeypatch.setenv("MBPP_DATASET_PATH", str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match="cannot read"):
        check_evaluations(Config())
    monkeypatch.setenv("MBPP_DATASET_PATH", "own")
    monkeypatch.setenv("MBPP_TIMEOUT_SECONDS", "soon")
    with pytest.raises(ConfigError, match="MBPP_TIMEOUT_SECONDS"):
        check_evaluations(Config())
