"""The embedded model is an ordinary small Qwen3; its tokenizer loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from algos.config.schema import EnvSection, SftSection
from algos.model.chat import stop_ids
from algos.warm_start import tiny
from algos.warm_start.demonstrations import demonstrate


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_folder)


def test_the_model_is_a_qwen3_of_about_a_million_parameters(tiny_folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert type(model).__module__.startswith("transformers.")
    assert model.config.model_type == "qwen3"
    assert 0.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.5e6
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_generate_of_transformers_ends_replies_where_ours_do(tiny_folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    said = [{"role": "user", "content": "You are X.\n0 1 2\n3 4 5\n6 7 8"}]
    ids = torch.tensor([tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)])
    reply = model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :].tolist()
    assert reply[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert reply[-1] in stop_ids(tokenizer)


def test_the_template_is_chatml(tokenizer: Any) -> None:
    said = [
        {"role": "system", "content": "Rules."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "<think>x</think>\\boxed{1}"},
    ]
    whole = (
        "<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n"
        "<|im_start|>assistant\n<think>x</think>\\boxed{1}<|im_end|>\n"
    )
    assert tokenizer.apply_chat_template(said, tokenize=False) == whole
    asked = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert asked == whole + "<|im_start|>assistant\n"
    for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1


ANY_TEXT = st.text() | st.text("\\boxed{0123456789} XO\n\t\r\x00🥚🏋é字") | st.sampled_from(["  a  b ", "\r\n", "🥚🐛🏋️"])


@given(text=ANY_TEXT)
def test_any_text_comes_back_from_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_cells_and_replies_are_short_and_digits_stay_apart(tokenizer: Any) -> None:
    assert len(tokenizer.encode("\\boxed{4}", add_special_tokens=False)) <= 3
    assert len(tokenizer.encode("0 1 2", add_special_tokens=False)) == 3
    assert len(tokenizer.encode("345", add_special_tokens=False)) == 3


def test_every_cell_of_a_board_without_spaces_is_one_token() -> None:
    env = EnvSection(id="llmgym/ConnectFour-v0", opponent="random", seat="alternate")
    episodes = demonstrate(env, SftSection(episodes=20), seed=0)
    shown = [turn.observation for episode in episodes for turn in episode.turns]
    tokenizer = tiny.train_tokenizer([*(episode.rules for episode in episodes), *shown])
    boards = [observation.split(".\n", 1)[1] for observation in shown]
    assert len(set(boards)) > 100
    for board in boards:
        said = tokenizer.apply_chat_template([{"role": "user", "content": f"x.\n{board}"}], return_dict=False)
        tokens = [tokenizer.decode(token) for token in said]
        end = tokens.index("<|im_end|>")
        assert tokens[end - len(board) : end] == list(board)


def test_the_seed_alone_fixes_the_weights(tokenizer: Any) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (tiny.untrained(tokenizer, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["model.layers.0.mlp.up_proj.weight"], other["model.layers.0.mlp.up_proj.weight"])
