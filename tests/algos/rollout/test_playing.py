"""The loop that plays all games: who replies in which seat, in which batch, with which prompt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algos.config.schema import RolloutSection
from algos.data.episodes import Episode
from algos.data.tasks import EnvKey, Start
from algos.engines.base import Sample
from algos.engines.hf import HFEngine
from algos.engines.opponent_pool import OpponentPool
from algos.errors import ConfigError
from algos.model.chat import Chat
from algos.model.load import load_model
from algos.rollout.playing import ModelPlayer, Player
from algos.rollout.self_play import SelfPlay
from algos.rollout.single_agent import EpisodeRunner
from llm_gym.opponents import make_player
from llm_gym.parsing import format_action

ENV = EnvKey("llmgym/TicTacToe-v0", '{"on_invalid": "retry:3"}')
LIMITS = RolloutSection(max_turns=30, max_prompt_tokens=2000)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> ModelPlayer:
    loaded, tokenizer = load_model(tiny_folder)
    chat = Chat(tokenizer)
    return ModelPlayer(HFEngine(loaded, chat.stop_ids, 8), chat)


def seeded(player: ModelPlayer, seed: int = 0) -> ModelPlayer:
    return replace(player, generator=torch.Generator().manual_seed(seed))


def last_legal(observation: str, info: dict[str, Any]) -> str:
    return f"\\boxed{{{info['legal_actions'][-1]}}}"


class Watched(HFEngine):
    """Notes the prompts of each call."""

    def __init__(self, engine: HFEngine) -> None:
        super().__init__(engine.model, set(engine.stop_ids.tolist()), engine.max_new_tokens)
        self.calls: list[list[list[int]]] = []

    def generate(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        self.calls.append(list(prompts))
        return super().generate(prompts, temperature, generator)


def test_a_model_its_earlier_self_a_scripted_player_and_a_callable_hold_seats(model: ModelPlayer) -> None:
    """Every game of the mix, played again move by move, is what each seat was shown, replied and earned."""
    pool = OpponentPool(model.engine, 1)  # type: ignore[arg-type]
    pool.take(3)
    pool.players[0].snapshot.weights = {name: 0.9 * w for name, w in pool.players[0].snapshot.weights.items()}
    model.engine.sync(7)
    me = seeded(model)
    kinds: list[Player] = [me, replace(me, engine=pool.players[0]), "random", last_legal]
    players = [[one, other] for one in kinds for other in kinds]
    starts = [Start(ENV, seed) for seed in range(len(players))]
    games = SelfPlay(LIMITS)
    for sides, held, start in zip(games.play(starts, players), players, starts, strict=True):
        again = games.make(ENV)
        again.reset(seed=start.seed)
        said, rng = [iter(side.turns) for side in sides], np.random.default_rng(start.seed)
        while not again.terminations[again.agent_selection]:
            seat = int(again.agent_selection[-1])
            turn, player = next(said[seat]), held[seat]
            assert (turn.observation, turn.player) == (str(again.observe(again.agent_selection)), seat)
            if isinstance(player, ModelPlayer):
                told = [("system", again.match.systems[seat]), ("user", turn.observation)]
                assert turn.prompt_ids == model.chat.first([{"role": r, "content": text} for r, text in told])
                assert turn.reply == model.chat.decode(turn.action_ids)
                assert turn.policy_version == (7 if player is me else 3)
            else:
                assert (turn.prompt_ids, turn.action_ids, turn.logprobs) == ([], [], [])
            if player == "random":
                game = again.match.game
                assert turn.reply == format_action(make_player("random", game).choose(game, rng), "boxed")
            if player is last_legal:
                assert turn.reply == last_legal("", again.infos[again.agent_selection])
            again.step(turn.reply)
        assert [next(turns, None) for turns in said] == [None, None]
        for seat, side in enumerate(sides):
            assert side.terminated
            assert side.outcome == again.infos[f"player_{seat}"]["outcome"]
            if side.turns:
                assert side.total_reward == again.infos[f"player_{seat}"]["returns"][seat]


def test_each_round_is_one_batch_a_model_in_the_order_of_the_games(model: ModelPlayer) -> None:
    first, second = Watched(model.engine), Watched(model.engine)  # type: ignore[arg-type]
    calls: list[str] = []
    for name, engine in (("first", first), ("second", second)):
        generate = engine.generate
        engine.generate = lambda *a, name=name, generate=generate: calls.append(name) or generate(*a)  # type: ignore
    one, other = replace(model, engine=first), replace(model, engine=second)
    players: list[list[Player]] = [["first", other], [one, "first"], [replace(one), replace(other)], [one, last_legal]]
    sides = SelfPlay(LIMITS).play([Start(ENV, seed) for seed in range(4)], players)
    # Game 0 waits for `other` in each round, so it comes first; an equal player is the same model.
    assert calls[:2] == ["second", "first"]
    assert [len(first.calls[0]), len(second.calls[0])] == [3, 1]
    assert first.calls[0] == [sides[game][0].turns[0].prompt_ids for game in (1, 2, 3)]
    for engine, seats in ((first, [(1, 0), (2, 0), (3, 0)]), (second, [(0, 1), (2, 1)])):
        replies = sum(len(sides[game][seat].turns) for game, seat in seats)
        assert sum(map(len, engine.calls)) == replies
        assert len(engine.calls) <= calls.count("first" if engine is first else "second")


def test_every_seat_has_a_conversation_of_its_own_that_only_grows(model: ModelPlayer) -> None:
    games = SelfPlay(LIMITS.model_copy(update={"context": "episode"}))
    players: list[list[Player]] = [[seeded(model), "random"], ["minimax", seeded(model)]] * 3
    longest = 0
    for sides, held in zip(games.play([Start(ENV, seed) for seed in range(6)], players), players, strict=True):
        (seat,) = [seat for seat, player in enumerate(held) if isinstance(player, ModelPlayer)]
        turns = sides[seat].turns
        for before, after in itertools.pairwise(turns):
            so_far = before.prompt_ids + before.action_ids
            assert after.prompt_ids[: len(so_far)] == so_far
        longest = max(longest, len(turns))
    assert longest > 2


def test_limits_hold_for_models_alone(model: ModelPlayer) -> None:
    games = SelfPlay(RolloutSection(max_turns=1, max_prompt_tokens=2000))
    (scripted,), (cut,) = (games.play([Start(ENV, 0)], [[player, "first"]]) for player in ("random", seeded(model)))
    assert all(side.terminated for side in scripted)
    assert max(len(side.turns) for side in scripted) > 1
    assert [(side.truncated, len(side.turns)) for side in cut] == [(True, 1), (True, 1)]


def test_the_randomness_of_scripted_players_is_the_starts_or_the_callers() -> None:
    games, starts = SelfPlay(LIMITS), [Start(ENV, 1), Start(ENV, 1), Start(ENV, 2)]

    def replies(rngs: list[np.random.Generator] | None = None) -> list[list[str]]:
        played = games.play(starts, [["random", "random"]] * 3, rngs)
        return [[turn.reply for side in sides for turn in side.turns] for sides in played]

    assert replies() == replies()
    assert replies()[0] == replies()[1] != replies()[2]
    given = replies([np.random.default_rng([5, number]) for number in range(3)])
    assert given == replies([np.random.default_rng([5, number]) for number in range(3)])
    assert given[0] != given[1]


def test_scripted_players_and_callables_play_gymnasium_environments() -> None:
    env = EnvKey(ENV.id, '{"opponent": "first", "seat": 1}')
    players: list[list[Player]] = [["minimax"], [last_legal], ["empty"]]
    games: list[list[Episode]] = EpisodeRunner(LIMITS).play([Start(env, seed) for seed in range(3)], players)
    (perfect,), (last,), (empty,) = games
    assert (perfect.outcome, perfect.player) == ("win", 1)
    assert [turn.reply for turn in last.turns][:2] == ["\\boxed{8}", "\\boxed{7}"]
    assert (empty.outcome, [turn.reply for turn in empty.turns]) == ("invalid", [""])


@pytest.mark.parametrize(
    ("env", "name", "told"),
    [
        (ENV, "nobody", "policy must be one of random"),
        (ENV, "nash", "nash plays kuhn_poker"),
        (EnvKey("test_self_play:Collecting"), "random", "only play environments of llm_gym"),
    ],
)
def test_a_player_that_cannot_play_is_refused(env: EnvKey, name: str, told: str) -> None:
    games = SelfPlay(LIMITS)
    with pytest.raises(ConfigError, match=told):
        games.play([Start(env, 0)], [[name] * games.seats(env)])
