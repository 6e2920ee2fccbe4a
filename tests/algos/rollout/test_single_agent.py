"""Episodes of real environments and a real sampler, played again move by move to check what was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

import llm_gym  # noqa: F401 - registers the environments
from algos.config.schema import RolloutSection
from algos.data.episodes import Episode
from algos.data.rows import to_rows
from algos.data.tasks import EnvKey, Start
from algos.engines.hf import HFEngine
from algos.grpo import GrpoConfig, advantage
from algos.model.chat import Chat
from algos.model.load import load_model
from algos.rollout.playing import ModelPlayer
from algos.rollout.single_agent import EpisodeRunner

ID = "llmgym/TicTacToe-v0"
RETRIED = EnvKey(ID, '{"on_invalid": "retry:2", "seat": "alternate"}')


@pytest.fixture(scope="module")
def player(tiny_folder: Path) -> ModelPlayer:
    model, tokenizer = load_model(tiny_folder)
    chat = Chat(tokenizer)
    return ModelPlayer(HFEngine(model, chat.stop_ids, 8), chat)


def runner(**rollout: Any) -> EpisodeRunner:
    return EpisodeRunner(RolloutSection(**({"max_turns": 20, "max_prompt_tokens": 2000} | rollout)))


def play_starts(player: ModelPlayer, starts: list[Start], runner: EpisodeRunner, seed: int = 0) -> list[Episode]:
    seeded = replace(player, generator=torch.Generator().manual_seed(seed))
    return [episode for (episode,) in runner.play(starts, [[seeded]] * len(starts))]


def play(
    player: ModelPlayer, seeds: Iterable[int], env: EnvKey = RETRIED, seed: int = 0, **rollout: Any
) -> list[Episode]:
    return play_starts(player, [Start(env, one) for one in seeds], runner(**rollout), seed)


@pytest.mark.parametrize("context", ["turn", "episode"])
def test_an_episode_holds_what_the_environment_said_to_each_sampled_reply(player: ModelPlayer, context: str) -> None:
    player.engine.sync(5)
    episodes = play(player, range(24), context=context)
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
            assert (turn.reply, turn.policy_version) == (player.chat.decode(turn.action_ids), 5)
            observation, reward, terminated, truncated, info = env.step(turn.reply)
            assert (turn.reward, turn.parse, turn.player) == (reward, info["parse"], info["player"])
            assert (terminated or truncated) == (number == len(episode.turns))
        assert (episode.terminated, episode.truncated) == (True, False)
        assert (episode.outcome, episode.player) == (info["outcome"], info["player"])
        assert episode.last_observation == observation
        assert episode.info["returns"] == info["returns"]


def test_a_turns_prompt_holds_the_rules_and_the_situation_now(player: ModelPlayer) -> None:
    for episode in play(player, range(8), context="turn"):
        for turn in episode.turns:
            said = [{"role": "system", "content": episode.rules}, {"role": "user", "content": turn.observation}]
            assert turn.prompt_ids == player.chat.first(said)


def test_a_conversation_only_grows_and_becomes_one_row(player: ModelPlayer) -> None:
    several = 0
    for episode in play(player, range(16), context="episode"):
        rows = to_rows(episode.turns)
        assert len(rows) == 1
        taken = [token for token, sampled in zip(rows[0].ids, rows[0].action_mask, strict=True) if sampled]
        assert taken == [token for turn in episode.turns for token in turn.action_ids]
        assert rows[0].prompt_ids + rows[0].ids == episode.turns[-1].prompt_ids + episode.turns[-1].action_ids
        several += len(episode.turns) > 1
    assert several > 3


def test_a_limit_on_turns_truncates(player: ModelPlayer) -> None:
    free = play(player, range(16))
    held = play(player, range(16), max_turns=2)
    cut = [episode for episode in held if episode.truncated]
    assert 0 < len(cut) < 16
    for one, whole in zip(held, free, strict=True):
        assert (one.truncated, one.terminated) == ((True, False) if len(whole.turns) > 2 else (False, True))
        assert len(one.turns) == min(len(whole.turns), 2)
    assert {episode.outcome for episode in cut} == {"truncated"}
    assert all(episode.total_reward == sum(turn.reward for turn in episode.turns) for episode in cut)


def test_a_prompt_that_would_be_too_long_truncates(player: ModelPlayer) -> None:
    free = play(player, range(16), context="episode")
    longest = max(len(turn.prompt_ids) for episode in free for turn in episode.turns)
    limit = longest - 1
    held = play(player, range(16), context="episode", max_prompt_tokens=limit)
    cut = [episode for episode in held if episode.truncated]
    assert cut
    assert not any(episode.terminated for episode in cut)
    assert all(len(turn.prompt_ids) <= limit for episode in held for turn in episode.turns)


def test_a_first_prompt_that_is_too_long_leaves_an_episode_without_turns(player: ModelPlayer) -> None:
    episodes = play(player, range(4), max_prompt_tokens=3)
    assert [(e.turns, e.truncated, e.terminated, e.outcome) for e in episodes] == [([], True, False, "truncated")] * 4


@pytest.fixture
def registered() -> Iterator[None]:
    def resigns_at_once() -> Any:
        return gymnasium.make(ID, seat="alternate", opponent=lambda observation, info: "no move at all")

    gymnasium.register("ResignsAtOnce-v0", entry_point=resigns_at_once)
    gymnasium.register("Echo-v0", entry_point=Echo)
    yield
    del gymnasium.registry["ResignsAtOnce-v0"], gymnasium.registry["Echo-v0"]


@pytest.mark.usefixtures("registered")
def test_games_that_an_opponent_ends_before_our_first_turn_teach_nothing(player: ModelPlayer) -> None:
    episodes = play(player, range(8), EnvKey("ResignsAtOnce-v0"))
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


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("context", ["turn", "episode"])
def test_an_environment_without_any_of_our_info_plays(player: ModelPlayer, context: str) -> None:
    episodes = play(player, [4, 5, 6, 7, 8], EnvKey("Echo-v0"), context=context)
    for episode in episodes:
        assert [turn.observation for turn in episode.turns] == [f"say {episode.seed}", "2 left", "1 left"]
        assert (episode.total_reward, episode.rules, episode.player) == (1.5, "", 0)
        assert (episode.terminated, episode.truncated, episode.outcome) == (False, True, "truncated")
        first, second = episode.turns[:2]
        asked = player.chat.first([{"role": "user", "content": first.observation}])
        assert first.prompt_ids == asked
        if context == "turn":
            assert second.prompt_ids == player.chat.first([{"role": "user", "content": "2 left"}])
        else:
            assert second.prompt_ids[: len(asked) + len(first.action_ids)] == asked + first.action_ids


def test_starts_are_played_in_order_in_their_environments(player: ModelPlayer) -> None:
    once = EnvKey(ID, '{"on_invalid": "lose", "seat": "alternate"}')
    starts = [Start(env, seed) for env, seed in [(RETRIED, 1), (RETRIED, 1), (once, 2), (once, 2), (RETRIED, 3)]]
    kept = runner()
    episodes = play_starts(player, starts, kept)
    assert [(e.start, e.seed, e.group) for e in episodes] == [(s, s.seed, n) for n, s in enumerate(starts)]
    for episode, start in zip(episodes, starts, strict=True):
        env = gymnasium.make(start.env.id, **start.env.kwargs)
        env.reset(seed=start.seed)
        for turn in episode.turns:
            _, reward, _, _, info = env.step(turn.reply)
            assert (turn.reward, turn.parse) == (reward, info["parse"])
        assert episode.outcome == info["outcome"]
    again = play_starts(player, starts, kept)  # in environments that have been used
    assert [[t.action_ids for t in e.turns] for e in again] == [[t.action_ids for t in e.turns] for e in episodes]


def test_the_same_generator_seed_plays_the_same_episodes(player: ModelPlayer) -> None:
    def replies(seed: int) -> list[list[list[int]]]:
        return [[turn.action_ids for turn in episode.turns] for episode in play(player, range(8), seed=seed)]

    assert replies(1) == replies(1)
    assert replies(1) != replies(2)
