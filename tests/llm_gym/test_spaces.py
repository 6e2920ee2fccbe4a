"""The space of all strings, alone and in Gymnasium's vector utilities."""

import copy
import gc
import os
import pickle
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector.utils import (
    batch_space,
    concatenate,
    create_empty_array,
    create_shared_memory,
    iterate,
    read_from_shared_memory,
    write_to_shared_memory,
)
from hypothesis import given
from hypothesis import strategies as st

from llm_gym.spaces import LatestTexts, TextChannel, Unicode

SPACE = Unicode()


@given(st.text(alphabet=st.characters(), max_size=50))
def test_every_string_is_in_it(text: str) -> None:
    assert text in SPACE
    assert SPACE.from_jsonable(SPACE.to_jsonable([text])) == [text]


@pytest.mark.parametrize("thing", [b"bytes", 3, None, ["text"], ("t",), np.array("text")])
def test_nothing_else_is(thing: Any) -> None:
    assert thing not in SPACE


def test_samples_follow_the_seed_and_are_varied() -> None:
    draws = [[space.sample() for _ in range(200)] for space in (Unicode(seed=3), Unicode(seed=3), Unicode(seed=4))]
    assert draws[0] == draws[1] != draws[2]
    assert {len(text) for text in draws[0]} == set(range(25))
    assert any(ord(character) > 0xFFFF for text in draws[0] for character in text)


@pytest.mark.parametrize("hint", [{"mask": np.ones(3)}, {"probability": np.ones(3)}])
def test_masks_are_refused(hint: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="strings are not enumerable"):
        SPACE.sample(**hint)


def test_all_unicode_spaces_are_equal_and_copies_sample_alike() -> None:
    space = Unicode(seed=1)
    assert space == Unicode(seed=2)
    assert space != gymnasium.spaces.Text(5)
    assert hash(space) == hash(Unicode())
    twins = [copy.deepcopy(space), pickle.loads(pickle.dumps(space))]
    assert [space.sample()] * 2 == [twin.sample() for twin in twins]


def test_a_batch_is_a_tuple_of_strings() -> None:
    batch = batch_space(SPACE, 3)
    texts = ("", "\ud800\x00", "中文" * 1000)
    assert texts in batch
    assert ("a", "b") not in batch
    assert batch.sample() in batch
    assert list(iterate(batch, texts)) == list(texts)
    assert concatenate(SPACE, texts, create_empty_array(SPACE, 3)) == texts


@given(texts=st.lists(st.text(), min_size=2, max_size=2))
def test_what_a_worker_writes_is_what_the_parent_reads(texts: list[str]) -> None:
    channel = create_shared_memory(SPACE, n=2)
    latest = read_from_shared_memory(SPACE, channel, n=2)
    assert tuple(latest) == ("", "")
    for text in (*texts, "\udc80\ud800", "long" * 99_999, "short", *texts):
        write_to_shared_memory(SPACE, 1, text, channel)
        write_to_shared_memory(SPACE, 0, text[:1], channel)
        assert (latest[0], latest[1], latest[-1]) == (text[:1], text, text)


def test_the_parents_view_is_a_sequence_and_its_copy_stays() -> None:
    channel = TextChannel(3)
    latest = LatestTexts(channel)
    channel.write(1, "one")
    kept = copy.deepcopy(latest)
    channel.write(1, "two")
    assert kept == ("", "one", "")
    assert (list(latest), latest[1:], len(latest)) == (["", "two", ""], ("two", ""), 3)
    with pytest.raises(IndexError):
        latest[3]
    assert data_equivalence(copy.deepcopy(latest), tuple(latest))


def test_a_pickled_channel_leads_to_the_same_files_but_does_not_own_them() -> None:
    channel = TextChannel(1)
    twin = pickle.loads(pickle.dumps(channel))
    twin.write(0, "from the worker")
    del twin
    gc.collect()
    assert channel.read(0) == "from the worker"


def test_files_go_with_their_owner() -> None:
    channel = TextChannel(2)
    folder = channel.folder
    assert len(os.listdir(folder)) == 2
    del channel
    gc.collect()
    assert not os.path.exists(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_forked_process_that_ends_leaves_the_files() -> None:
    channel = TextChannel(1)
    child = os.fork()
    if child == 0:
        channel._cleanup()  # what the interpreter does as it exits
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    channel.write(0, "still here")
    assert channel.read(0) == "still here"
