"""Episodes of real environments and a real sampler, played again move by move to check what was recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

import llm_gym  # noqa: F401 - registers the environments
from algos.data.episodes import Episode
from algos.data.rows import to_rows
from algos.data.tasks import EnvKey, Start
from algos.engines.hf import HFEngine
from algos.grpo import GrpoConfig, advantage
from algos.model.chat import Chat
from algos.model.load import load_model
from algos.rollout.single_agent import EpisodeRunner

ID = "llmgym/TicTacToe-v0"
MakeRollout = Callable[..., EpisodeRunner]


@pytest.fixture(scope="module")
def make_rollout(tiny_folder: Path) -> MakeRollout:
    model, tokenizer = load_model(tiny_folder)
    chat = Chat(tokenizer)

    def make(env: Callable[[], Any] | None = None, n: int = 16, context: str = "turn", **limits: int) -> EpisodeRunner:
        limits = {"max_turns": 20, "max_prompt_tokens": 2000} | limits
        made = env or (lambda: gymnasium.make(ID, seat="alternate", on_invalid="retry:2"))
        engine = HFEngine(model, chat.stop_ids, 8)
        return EpisodeRunner([made() for _ in range(n)], engine, chat, ID, context, **limits)  # type: ignore[arg-type]

    return make


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("context", ["turn", "episode"])
def test_an_episode_holds_what_the_environment_said_to_each_sampled_reply(
    make_rollout: MakeRollout, context: str
) -> None:
    rollout = make_rollout(context=context)
    rollout.engine.sync(5)
    episodes = rollout.play(range(24), 1.0, seeded())
    assert [e.seed for e in episodes] == list(range(24))
    assert {e.player for e in episodes} == {0, 1}
    assert {turn.parse for e in episodes for turn in e.turns} == {"ok", "malformed", "illegal"}
    assert max(len(e.turns) for e in episodes) > 2
    env = gymnasium.make(ID, seat="alternate", on_invalid="retry:2")
    for episode in episodes:
        observation, info = env.reset(seed=episode.seed)
        assert episode.rules == info["messages"][0]["content"]
        for number, turn in enumerate(episode.turns, 1):
            assert turn.observation == observation
            assert (turn.reply, turn.policy_version) == (rollout.chat.decode(turn.action_ids), 5)
            observation, reward, terminated, truncated, info = env.step(turn.reply)
            assert (turn.reward, turn.parse, turn.player) == (reward, info["parse"], info["player"])
            assert (terminated or truncated) == (number == len(episode.turns))
        assert (episode.terminated, episode.truncated) == (True, False)
        assert (episode.outcome, episode.player) == (info["outcome"], info["player"])
        assert episode.last_observation == observation
        assert episode.info["returns"] == info["returns"]


def test_a_turns_prompt_holds_the_rules_and_the_situation_now(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(context="turn")
    for episode in rollout.play(range(8), 1.0, seeded()):
        for turn in episode.turns:
            said = [{"role": "system", "content": episode.rules}, {"role": "user", "content": turn.observation}]
            assert turn.prompt_ids == rollout.chat.first(said)


def test_a_conversation_only_grows_and_becomes_one_row(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(context="episode")
    several = 0
    for episode in rollout.play(range(16), 1.0, seeded()):
        rows = to_rows(episode.turns)
        assert len(rows) == 1
        taken = [token for token, sampled in zip(rows[0].ids, rows[0].action_mask, strict=True) if sampled]
        assert taken == [token for turn in episode.turns for token in turn.action_ids]
        assert rows[0].prompt_ids + rows[0].ids == episode.turns[-1].prompt_ids + episode.turns[-1].action_ids
        several += len(episode.turns) > 1
    assert several > 3


def test_a_limit_on_turns_truncates(make_rollout: MakeRollout) -> None:
    free = make_rollout().play(range(16), 1.0, seeded())
    held = make_rollout(max_turns=2).play(range(16), 1.0, seeded())
    cut = [episode for episode in held if episode.truncated]
    assert 0 < len(cut) < 16
    for one, whole in zip(held, free, strict=True):
        assert (one.truncated, one.terminated) == ((True, False) if len(whole.turns) > 2 else (False, True))
        assert len(one.turns) == min(len(whole.turns), 2)
    assert {episode.outcome for episode in cut} == {"truncated"}
    assert all(episode.total_reward == sum(turn.reward for turn in episode.turns) for episode in cut)


def test_a_prompt_that_would_be_too_long_truncates(make_rollout: MakeRollout) -> None:
    free = make_rollout(context="episode").play(range(16), 1.0, seeded())
    longest = max(len(turn.prompt_ids) for episode in free for turn in episode.turns)
    limit = longest - 1
    held = make_rollout(context="episode", max_prompt_tokens=limit).play(range(16), 1.0, seeded())
    cut = [episode for episode in held if episode.truncated]
    assert cut
    assert not any(episode.terminated for episode in cut)
    assert all(len(turn.prompt_ids) <= limit for episode in held for turn in episode.turns)


def test_a_first_prompt_that_is_too_long_leaves_an_episode_without_turns(make_rollout: MakeRollout) -> None:
    episodes = make_rollout(max_prompt_tokens=3).play(range(4), 1.0, seeded())
    assert [(e.turns, e.truncated, e.terminated, e.outcome) for e in episodes] == [([], True, False, "truncated")] * 4


def test_games_that_an_opponent_ends_before_our_first_turn_teach_nothing(make_rollout: MakeRollout) -> None:
    def resigns_at_once() -> Any:
        return gymnasium.make(ID, seat="alternate", opponent=lambda observation, info: "no move at all")

    rollout = make_rollout(resigns_at_once, n=4)
    episodes = rollout.play(range(8), 1.0, seeded())
    second = [episode for episode in episodes if episode.player == 1]
    assert [len(e.turns) for e in second] == [0] * 4
    assert all(e.terminated and not e.truncated for e in second)
    assert {e.outcome for e in second} == {"win"}
    assert all(e.turns for e in episodes if e.player == 0)
    config = GrpoConfig.model_validate({"grpo": {"group_size": 4}})
    rows, metrics = advantage(config, [second])
    assert (rows, metrics["groups/zero_std"]) == ([], 1.0)


class Echo(gymnasium.Env[str, str]):
    """A stranger's environment: strings in and out, nothing of ours in ``info``."""

    observation_space = action_space = gymnasium.spaces.Text(100)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 3
        return f"say {seed}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return f"{self.left} left", 0.5, False, self.left == 0, {}


@pytest.mark.parametrize("context", ["turn", "episode"])
def test_an_environment_without_any_of_our_info_plays(make_rollout: MakeRollout, context: str) -> None:
    rollout = make_rollout(Echo, n=3, context=context)
    episodes: list[Episode] = rollout.play([4, 5, 6, 7, 8], 1.0, seeded())
    for episode in episodes:
        assert [turn.observation for turn in episode.turns] == [f"say {episode.seed}", "2 left", "1 left"]
        assert (episode.total_reward, episode.rules, episode.player) == (1.5, "", 0)
        assert (episode.terminated, episode.truncated, episode.outcome) == (False, True, "truncated")
        first, second = episode.turns[:2]
        asked = rollout.chat.first([{"role": "user", "content": first.observation}])
        assert first.prompt_ids == asked
        if context == "turn":
            assert second.prompt_ids == rollout.chat.first([{"role": "user", "content": "2 left"}])
        else:
            assert second.prompt_ids[: len(asked) + len(first.action_ids)] == asked + first.action_ids


def test_tasks_are_played_in_order_in_their_environments_and_groups(make_rollout: MakeRollout) -> None:
    retried, once = (EnvKey(ID, f'{{"on_invalid": "{how}", "seat": "alternate"}}') for how in ("retry:2", "lose"))
    tasks = [Start(env, seed) for env, seed in [(retried, 1), (retried, 1), (once, 2), (once, 2), (retried, 3)]]
    rollout = make_rollout(n=1)
    episodes = rollout.play_starts(tasks, 1.0, seeded(), group_size=2)
    assert [(e.start, e.seed, e.group) for e in episodes] == [(t, t.seed, n // 2) for n, t in enumerate(tasks)]
    for episode, task in zip(episodes, tasks, strict=True):
        env = gymnasium.make(task.env.id, **task.env.kwargs)
        env.reset(seed=task.seed)
        for turn in episode.turns:
            _, reward, _, _, info = env.step(turn.reply)
            assert (turn.reward, turn.parse) == (reward, info["parse"])
        assert episode.outcome == info["outcome"]
    again = rollout.play_starts(tasks, 1.0, seeded(), group_size=2)  # in environments that have been used
    assert [[t.action_ids for t in e.turns] for e in again] == [[t.action_ids for t in e.turns] for e in episodes]


def test_the_same_generator_seed_plays_the_same_episodes(make_rollout: MakeRollout) -> None:
    def replies(seed: int, n: int) -> list[list[list[int]]]:
        played = make_rollout(n=n).play(range(8), 1.0, seeded(seed))
        return [[turn.action_ids for turn in episode.turns] for episode in played]

    assert replies(1, 8) == replies(1, 8)
    assert replies(1, 8) != replies(2, 8)
