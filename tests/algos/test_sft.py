"""The warm start teaches the format; its result is made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium
import pytest
import torch
from safetensors.torch import load_file

from algos.config.schema import EnvSection, RolloutSection, SftSection
from algos.data.batching import Batch
from algos.data.episodes import Episode
from algos.data.tasks import EnvKey, Start
from algos.engines.hf import HFEngine
from algos.model.chat import Chat
from algos.model.forward import Policy
from algos.model.load import load_model
from algos.rollout.conversation import Context
from algos.rollout.playing import ModelPlayer
from algos.rollout.single_agent import EpisodeRunner
from algos.warm_start import embedded
from algos.warm_start.demonstrations import as_rows, demonstrate
from algos.warm_start.embedded import tiny_model, untrained_tiny
from algos.warm_start.fit import fit
from algos.warm_start.tiny import untrained

BRIEF = SftSection(episodes=10, steps=2, batch=8)


def test_the_cache_is_hit_the_second_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLM_GYM_CACHE", str(tmp_path))
    folder = tiny_model(EnvSection(), "turn", BRIEF)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    monkeypatch.setattr(embedded, "demonstrate", lambda *given: pytest.fail("made again"))
    assert tiny_model(EnvSection(), "turn", BRIEF) == folder
    # Whoever is trained against later, in whichever seat: the demonstrations are the same.
    assert tiny_model(EnvSection(opponent="minimax", seat=1), "turn", BRIEF) == folder


def test_the_same_recipe_gives_the_same_weights_and_another_one_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = []
    slower = BRIEF.model_copy(update={"lr": 1e-3})
    for number, (recipe, seed) in enumerate([(BRIEF, 0), (BRIEF, 0), (BRIEF, 1), (slower, 0)]):
        monkeypatch.setenv("LLM_GYM_CACHE", str(tmp_path / str(number)))
        torch.manual_seed(number)
        weights.append(load_file(tiny_model(EnvSection(), "turn", recipe, seed) / "model.safetensors"))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    for other in weights[2:]:
        assert any(not torch.equal(value, other[name]) for name, value in weights[0].items())


def test_demonstrations_are_legal_games_in_every_seat() -> None:
    episodes = demonstrate(EnvSection(seat="alternate"), SftSection(episodes=12), seed=5)
    assert len(episodes) == 12
    env = gymnasium.make("llmgym/TicTacToe-v0", seat="alternate")
    for number, episode in enumerate(episodes):
        observation, info = env.reset(seed=5 + number)
        assert episode.player == info["player"] == (5 + number) % 2
        assert info["messages"][0] == {"role": "system", "content": episode.rules}
        for turn in episode.turns:
            assert turn.observation == observation == info["messages"][-1]["content"]
            observation, *_, info = env.step(turn.reply)
            assert info["parse"] == turn.parse == "ok"
        assert "outcome" in info


@pytest.mark.parametrize("context", ["turn", "episode"])
def test_only_the_replies_and_their_end_are_learned(context: Context) -> None:
    episodes = demonstrate(EnvSection(), SftSection(episodes=6), seed=0)
    _, tokenizer = untrained_tiny(episodes, 0)
    rows = as_rows(episodes, Chat(tokenizer), context)
    assert len(rows) == (6 if context == "episode" else sum(len(episode.turns) for episode in episodes))
    learned = [token for row in rows for token, trained in zip(row.ids, row.action_mask, strict=True) if trained]
    said = "".join(f"{turn.reply}<|im_end|>" for episode in episodes for turn in episode.turns)
    assert tokenizer.decode(learned) == said


@pytest.mark.parametrize("context", ["turn", "episode"])
def test_prompts_are_learned_too_from_where_they_differ(context: Context) -> None:
    episodes = demonstrate(EnvSection(seat="alternate"), SftSection(episodes=6), seed=0)
    _, tokenizer = untrained_tiny(episodes, 0)
    replies = as_rows(episodes, Chat(tokenizer), context)
    rows = as_rows(episodes, Chat(tokenizer), context, completion_only=False)
    assert [row.prompt_ids + row.ids for row in rows] == [row.prompt_ids + row.ids for row in replies]
    assert all(all(row.action_mask) for row in rows)
    (rules,) = {tokenizer.decode(row.prompt_ids) for row in rows}
    assert rules.startswith("<|im_start|>system\nTic-tac-toe")
    assert rules.endswith("<|im_start|>user\nYou are")  # X or O


def test_one_and_the_same_prompt_keeps_a_token_to_learn() -> None:
    episodes = demonstrate(EnvSection(), SftSection(episodes=1), seed=0)
    _, tokenizer = untrained_tiny(episodes, 0)
    begun = replace(episodes[0], turns=episodes[0].turns[:1])
    (row,) = as_rows([begun], Chat(tokenizer), "turn")
    (all_of_it,) = as_rows([begun], Chat(tokenizer), "turn", completion_only=False)
    assert (all_of_it.prompt_ids, all_of_it.ids) == (row.prompt_ids[:-1], row.prompt_ids[-1:] + row.ids)


def test_who_learns_the_prompts_foretells_the_game() -> None:
    episodes = demonstrate(EnvSection(), SftSection(episodes=20), seed=0)
    surprise = {}
    for only in (True, False):
        model, tokenizer = untrained_tiny(episodes, 0)
        chat = Chat(tokenizer)
        list(fit(model, as_rows(episodes, chat, "turn", only), SftSection(steps=15, batch=32), seed=0))
        with torch.no_grad():
            logprobs, *_ = Policy(model, 1.0)(Batch.of(as_rows(episodes, chat, "turn", completion_only=False)))
        surprise[only] = -logprobs.mean().item()
    assert surprise[False] < 1.5 < surprise[True]


def test_the_loss_is_the_mean_over_the_replies_tokens_and_falls() -> None:
    episodes = demonstrate(EnvSection(), SftSection(episodes=20), seed=0)
    model, tokenizer = untrained_tiny(episodes, 0)
    rows = as_rows(episodes, Chat(tokenizer), "turn")[:4]
    nats, tokens = 0.0, 0
    for row in rows:
        log_p = torch.log_softmax(model(torch.tensor([row.prompt_ids + row.ids])).logits[0], -1)
        nats -= sum(log_p[len(row.prompt_ids) - 1 + i, token].item() for i, token in enumerate(row.ids))
        tokens += len(row.ids)
    (first,) = fit(model, rows * 50, SftSection(steps=1, batch=400, lr=1e-9), seed=0)
    assert first == pytest.approx(nats / tokens, rel=0.05)  # 400 draws of 4 rows
    *_, last = fit(model, rows, SftSection(steps=15, batch=16), seed=0)
    assert last < first / 2


def test_micro_batches_do_not_change_what_is_learned() -> None:
    episodes = demonstrate(EnvSection(), SftSection(episodes=10), seed=0)
    losses = []
    for size in (1, 3, 16):
        model, tokenizer = untrained_tiny(episodes, 0)
        rows = as_rows(episodes, Chat(tokenizer), "turn")
        losses.append(list(fit(model, rows, SftSection(steps=3, batch=16, micro_batch=size), seed=0)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)


def test_the_warm_start_lowers_invalid_replies(tiny_folder: Path) -> None:
    model, tokenizer = load_model(tiny_folder)
    chat = Chat(tokenizer)
    env = EnvKey.of(EnvSection(seat="alternate", on_invalid="penalty:0.1"))
    runner, starts = EpisodeRunner(RolloutSection(max_turns=6)), [Start(env, seed) for seed in range(32)]
    malformed = []
    for policy in (untrained(tokenizer), model):
        player = ModelPlayer(HFEngine(policy, chat.stop_ids, 8), chat, 1.0, torch.Generator().manual_seed(0))
        games = runner.play(starts, [[player]] * 32)
        parses = [turn.parse for (episode,) in games for turn in episode.turns]
        malformed.append(parses.count("malformed") / len(parses))
    assert malformed[0] > 0.9
    assert malformed[1] < 0.3


def test_a_demonstration_without_a_reply_does_not_change_the_tokenizer() -> None:
    episodes = demonstrate(EnvSection(), SftSection(episodes=6), seed=0)
    never = [Episode("env", 0, rules="zebra quartz " * 50) for _ in range(4)]
    vocabularies = [untrained_tiny(given, 0)[1].get_vocab() for given in (episodes, [*never, *episodes])]
    assert vocabularies[0] == vocabularies[1]
