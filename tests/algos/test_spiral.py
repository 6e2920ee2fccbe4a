"""SPIRAL: who is paid and trained in self-play, the magnet, past selves, and the averaged weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from micro import micro_model, micro_trainer, plain_logprobs, sections, some_rows
from safetensors.torch import load_file

from algos import spiral
from algos.data.batching import Batch
from algos.data.episodes import Episode
from algos.data.tasks import EnvKey, Start
from algos.engines.base import Sample
from algos.engines.hf import HFEngine
from algos.engines.opponent_pool import OpponentPool
from algos.errors import ConfigError
from algos.maths.advantages import RoleBaseline
from algos.model.forward import Policy
from algos.model.reference import Magnet
from algos.model.snapshot import Snapshot
from algos.rollout.playing import ModelPlayer
from algos.rollout.self_play import SelfPlay
from algos.run_folder import checkpoints as checkpoint
from algos.training.run import Run
from algos.training.trainer import Trainer

ID = "llmgym/TicTacToe-v0"


@pytest.fixture
def run_with(tiny_folder: Path, tmp_path: Path) -> Callable[..., tuple[Trainer, spiral.SpiralConfig]]:
    def make(**changed: Any) -> tuple[Trainer, spiral.SpiralConfig]:
        given = {"run__dir": tmp_path, "run__trackers": [], "model__path": str(tiny_folder), "eval__episodes": 0}
        given |= {"rollout__episodes": 24, "rollout__max_new_tokens": 8} | changed
        config = spiral.SpiralConfig.model_validate(sections("spiral", **given))
        return Run("spiral", config, {}, Trainer.start(config, resume=False)), config

    return make


class Says:
    """An engine that knows what to say."""

    version = 0

    def __init__(self, chat: Any, *replies: str) -> None:
        end = chat.tokenizer.eos_token_id
        self.replies = [[*chat.tokenizer.encode(reply), end] for reply in replies]

    def sync(self, version: int) -> None: ...

    def generate(self, prompts: Sequence[list[int]], temperature: float, generator: torch.Generator) -> list[Sample]:
        ids = self.replies.pop(0)
        return [Sample(ids, [-1.0] * len(ids), "stop")]


def played(trainer: Trainer, config: spiral.SpiralConfig, *replies: list[str]) -> list[Episode]:
    """One game in which each seat says what it is given."""
    players = [ModelPlayer(Says(trainer.chat, *said), trainer.chat) for said in replies]
    ((*sides,),) = SelfPlay(config.rollout).play([Start(EnvKey(ID), 0)], [players])
    return sides


def test_each_seat_is_paid_for_its_own_replies(run_with: Any) -> None:
    run, config = run_with()
    moves = ["\\boxed{0}", "\\boxed{1}", "\\boxed{2}"], ["\\boxed{3}", "\\boxed{4}", "\\boxed{5}"]
    first, second = played(run.trainer, config, moves[0], moves[1])
    # 0 1 2 is a row: the first player has won before the second one's third move.
    assert [turn.reward for turn in first.turns] == [0.0, 0.0, 1.0]
    assert [turn.reward for turn in second.turns] == [0.0, -1.0]
    assert [(e.player, e.outcome, e.terminated) for e in (first, second)] == [(0, "win", True), (1, "loss", True)]
    assert [turn.player for turn in second.turns] == [1, 1]
    rows, figures = spiral.advantage([first, second], RoleBaseline(0.9), 0)
    assert [set(row.advantages) for row in rows] == [{1.0}] * 3 + [{-1.0}] * 2
    assert figures == pytest.approx({f"baseline/{ID}_0": 0.1, f"baseline/{ID}_1": -0.1})


def test_replies_to_the_same_prompt_can_be_compared_with_one_another(run_with: Any) -> None:
    run, config = run_with()
    moves = (["\\boxed{0}", "\\boxed{1}", "\\boxed{2}"], ["\\boxed{3}", "\\boxed{4}", "\\boxed{5}"])
    won, answered = played(run.trainer, config, moves[0], moves[1])
    lost, _ = played(run.trainer, config, ["\\boxed{3}", "\\boxed{4}", "\\boxed{8}"], moves[0])
    refused, _ = played(run.trainer, config, ["nothing at all"], [])
    spiral.advantage([won, answered, lost, refused], RoleBaseline(0.9), 0, "same_prompt")
    # All three saw the empty board: returns 1, -1 and -1.5, mean -0.5. Later boards were seen once: the seat's mean.
    assert [e.turns[0].advantage for e in (won, lost, refused)] == pytest.approx([1.5, -0.5, -1.0])
    assert [turn.advantage for turn in won.turns[1:]] == [1.0, 1.0]
    assert [turn.advantage for turn in answered.turns] == [-1.0, -1.0]
    assert [turn.advantage for turn in lost.turns[1:]] == pytest.approx([-1.1, -1.1])


def test_games_of_a_group_begin_with_the_same_opening(run_with: Any) -> None:
    run, config = run_with(env__random_opening=4, spiral__group_size=4, rollout__episodes=24)
    own, _ = spiral.collect(config, run, SelfPlay(config.rollout), OpponentPool(run.trainer.engine, 1), 0)
    seeds = [episode.seed for episode in own if episode.player == 0]
    assert [seeds.count(seed) for seed in dict.fromkeys(seeds)] == [4] * 6
    config.spiral.group_size = 5
    with pytest.raises(ConfigError, match="group_size"):
        spiral.check(config)


def test_an_invalid_move_ends_the_game_and_is_trained(run_with: Any) -> None:
    """Trap: it is replaced by a random legal one, and its text trained as if it had been that."""
    run, config = run_with()
    first, second = played(run.trainer, config, ["\\boxed{0}"], ["\\boxed{0}"])
    assert [(turn.reward, turn.parse) for turn in first.turns] == [(0.5, "ok")]
    assert [(turn.reward, turn.parse) for turn in second.turns] == [(-1.5, "illegal")]
    assert (first.outcome, second.outcome) == ("win", "invalid")
    rows, _ = spiral.advantage([first, second], RoleBaseline(0.9), 0)
    assert [row.ids for row in rows] == [first.turns[0].action_ids, second.turns[0].action_ids]
    assert [set(row.advantages) for row in rows] == [{0.5}, {-1.5}]


def test_a_seat_that_never_moved_is_not_trained_and_moves_no_baseline(run_with: Any) -> None:
    run, config = run_with()
    first, second = played(run.trainer, config, ["nothing at all"], [])
    assert ([turn.reward for turn in first.turns], second.turns) == ([-1.5], [])
    assert (first.outcome, second.outcome, second.terminated) == ("invalid", "win", True)
    rows, figures = spiral.advantage([second, first], RoleBaseline(0.9), 0)
    assert [set(row.advantages) for row in rows] == [{-1.5}]
    assert figures == pytest.approx({f"baseline/{ID}_0": -0.15})
    assert spiral.advantage([second], RoleBaseline(0.9), 0) == ([], {})


def test_a_seat_held_by_a_past_self_is_never_trained(run_with: Any) -> None:
    """Trap: a seat played by a bot whose text was trained."""
    run, config = run_with(spiral__opponent_pool_share=0.6, spiral__opponent_pool_size=2)
    past = OpponentPool(run.trainer.engine, 2)
    for version in (1, 2, 3):
        past.take(version)
    for player in past.players:  # they play otherwise than the policy does now
        player.snapshot.weights = {name: 0.9 * weight for name, weight in player.snapshot.weights.items()}
    run.trainer.engine.sync(7)
    own, others = spiral.collect(config, run, SelfPlay(config.rollout), past, 3)
    assert 5 < len(others) < 20
    assert len(own) + len(others) == 48
    assert {episode.player for episode in others} == {0, 1}
    assert {turn.policy_version for episode in others for turn in episode.turns} == {2, 3}
    assert {turn.policy_version for episode in own for turn in episode.turns} == {7}
    rows, _ = spiral.advantage(own, RoleBaseline(), 0)
    assert [row.ids for row in rows] == [turn.action_ids for episode in own for turn in episode.turns]
    batch = Batch.of(rows)
    torch.testing.assert_close(run.trainer.policy(batch)[0], batch.at_actions(batch.old_logprobs), rtol=0, atol=1e-5)


def test_which_games_past_selves_play_is_a_matter_of_the_step_alone(run_with: Any) -> None:
    run, config = run_with(spiral__opponent_pool_share=0.5, rollout__episodes=8, rollout__max_turns=1)
    past = OpponentPool(run.trainer.engine, 2)
    past.take(1)

    def seats(step: int) -> list[tuple[int, int]]:
        _, others = spiral.collect(config, run, SelfPlay(config.rollout), past, step)
        return [(episode.seed, episode.player) for episode in others]

    assert seats(1) == seats(1)
    assert [seat for _, seat in seats(1) * 4] != [seat for _, seat in seats(2) + seats(3) + seats(4) + seats(5)]


@pytest.mark.usefixtures("float64")
def test_the_magnets_divergence_is_0_when_it_has_just_been_renewed() -> None:
    model = micro_model()
    policy, magnet, batch = Policy(model, 1.0), Snapshot(model), Batch.of(some_rows(5))
    reference = Magnet(magnet, 1.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    at_first = policy(batch, reference.hidden(batch)).kl
    assert at_first.abs().max() < 1e-12
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    away = policy(batch, reference.hidden(batch)).kl
    assert away.min() > 0
    assert away.mean() > 0.01
    magnet.update(0.25)
    for name, parameter in model.named_parameters():  # a quarter of the old remains
        torch.testing.assert_close(magnet.weights[name], 0.25 * before[name] + 0.75 * parameter)
    magnet.update()
    renewed = policy(batch, reference.hidden(batch)).kl
    assert renewed.abs().max() < 1e-12
    (renewed.sum() + policy(batch)[0].sum()).backward()  # having worn other weights leaves gradients in order
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_past_selves_play_and_come_back_as_they_were() -> None:
    model = micro_model(dtype=torch.float32)
    engine, prompts = HFEngine(model, {0}, 6), [[1, 2], [3, 4, 5]] * 4
    past = OpponentPool(engine, 2)

    def replies(player: Any) -> list[list[int]]:
        return [s.ids for s in player.generate(prompts, 1.0, torch.Generator().manual_seed(1))]

    said = []
    for version in (1, 2, 3):
        past.take(version)
        said.append(replies(engine))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.7)
    assert [player.version for player in past.players] == [2, 3]
    present = {name: value.clone() for name, value in model.state_dict().items()}
    again = OpponentPool(HFEngine(model, {0}, 6), 2)
    again.load_state_dict(past.state_dict())
    for selves in (past, again):
        assert [replies(player) for player in selves.players] == said[1:]
        assert [player.version for player in selves.players] == [2, 3]
    assert said[1] != said[2]
    assert all(torch.equal(value, present[name]) for name, value in model.state_dict().items())


@pytest.mark.usefixtures("float64")
def test_the_plain_policy_gradient_is_the_clipped_losss_first_step() -> None:
    after = []
    for loss in ("clipped", "policy_gradient"):
        config = spiral.SpiralConfig.model_validate(sections("spiral", spiral__loss=loss))
        trainer, rows = micro_trainer(config, Accelerator()), some_rows(5)
        for row in rows:
            row.old_logprobs = row.spread(plain_logprobs(trainer.model, row, 1.0).tolist())
        spiral.update(config, rows, trainer, 0)
        after.append([parameter.detach() for parameter in trainer.model.parameters()])
    start = list(micro_model().parameters())
    assert not any(torch.equal(moved, still) for moved, still in zip(after[0], start, strict=True))
    for one, other in zip(*after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_averaged_weights_are_what_is_evaluated_and_exported(tiny_folder: Path, tmp_path: Path) -> None:
    def run(folder: Path, model: Path, **changed: Any) -> dict[str, Any]:
        given = {"run.dir": folder, "run.trackers": "[]", "model.path": model, "env.opponent": "first"}
        given |= {"rollout.episodes": 16, "rollout.max_new_tokens": 8, "eval.episodes": 24, "optim.lr": 5e-3}
        given |= {name.replace("__", "."): value for name, value in changed.items()}
        spiral.main([word for name, value in given.items() for word in (f"--{name}", str(value))])
        return dict(json.loads((folder / "summary.json").read_text()))

    summary = run(tmp_path / "run", tiny_folder, run__max_steps=2, run__save_every=1, optim__ema_decay=0.5)
    first, newest = checkpoint.all_of(tmp_path / "run")
    average, trained = load_file(tmp_path / "run/average/model.safetensors"), load_file(newest / "model.safetensors")
    began, once = load_file(tiny_folder / "model.safetensors"), load_file(first / "model.safetensors")
    for name, value in average.items():
        torch.testing.assert_close(value, began[name] / 4 + once[name] / 4 + trained[name] / 2)
    kept = checkpoint.load_state(newest)["registered"]["average"]
    assert all(torch.equal(average[name], kept[name]) for name in kept)
    assert not any(torch.equal(average[name], trained[name]) for name in kept)
    judged = run(tmp_path / "average", tmp_path / "run/average", run__max_steps=0)
    assert judged["before"] == summary["after"]
    plain = run(tmp_path / "trained", newest, run__max_steps=0)
    assert plain["before"] != summary["after"]
    # The trained weights went on from where they were: without the average they come to the same.
    run(tmp_path / "without", tiny_folder, run__max_steps=2, eval__every=1)
    without = load_file(checkpoint.all_of(tmp_path / "without")[-1] / "model.safetensors")
    assert all(torch.equal(value, without[name]) for name, value in trained.items())
