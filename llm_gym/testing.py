"""The suite's own checks, for any text environment: ``check_text_env("mine/Env-v0")``."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import pickle
import random
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from llm_gym.parsing import FORMATS, format_action

JUNK = (
    *(
        "",
        " ",
        "\x00",
        "\ud800",
        "\u202e\u200f",
        "²",
        "[",
        "<answer>",
        "```",
        "<think>",
        "}" * 99,
        "🥚" * 40,
        "x" * 1_000_000,
    ),
    *("\\boxed{", "\\boxed{\\boxed{}}", "\\boxed{no such action}", "\\boxed{1}\\boxed{2}"),
)
PARSES = {"ok", "malformed", "illegal"}
OUTCOMES = {"win", "loss", "draw", "invalid", "solved", "failed"}


class TextEnvError(AssertionError):
    """An environment breaks the contract of text environments; the message says which part and how."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise TextEnvError(message)


def check_text_env(env: str | gymnasium.Env[str, str], episodes: int = 20, seed: int = 0, max_turns: int = 500) -> None:
    """Checks that ``env`` keeps to the contract of text environments, beyond Gymnasium's ``check_env``.

    Strings in and out; ``info`` complete; ``reward_terms`` that add up; rewards in ``env.reward_range`` if it has one;
    seeds that fix an episode; no reply that raises; nothing printed; the global random state untouched; pickling and
    deep copies that play on alike.

    Args:
        env: An id, or an environment that was not reset yet.
        episodes: How many episodes of random legal and of junk replies are played.
        seed: The first seed.
        max_turns: Episodes are cut after this many turns.

    Raises:
        TextEnvError: The first breach that was found.
    """
    env = gymnasium.make(env) if isinstance(env, str) else env
    printed = io.StringIO()
    state = random.getstate(), pickle.dumps(np.random.get_state())
    with contextlib.redirect_stdout(printed):
        check_env(env.unwrapped, skip_close_check=True)
        for episode in range(episodes):
            rng = random.Random(episode)
            first = _play(env, seed + episode, rng, max_turns)
            _require(
                first == _play(env, seed + episode, random.Random(episode), max_turns),
                f"reset(seed={seed + episode}) and the same replies gave two different episodes",
            )
        _check_copies(env, seed)
    _require(printed.getvalue() == "", f"the environment printed {printed.getvalue()[:80]!r}")
    _require(state == (random.getstate(), pickle.dumps(np.random.get_state())), "the global random state was used")


def random_reply(info: dict[str, Any], rng: random.Random, action_format: str = "boxed", junk: float = 0.0) -> str:
    """A random legal reply, or with probability ``junk`` (and where legal actions cannot be listed) any string."""
    if info["legal_actions"] and rng.random() >= junk:
        return format_action(rng.choice(info["legal_actions"]), action_format)
    return rng.choice(JUNK)


def _play(env: gymnasium.Env[str, str], seed: int, rng: random.Random, max_turns: int) -> list[Any]:
    """Plays one checked episode: legal replies, and junk in every other episode."""
    action_format = getattr(getattr(env.unwrapped, "match", None), "action_format", "boxed")
    _require(action_format in FORMATS, f"unknown action format {action_format!r}")
    observation, info = env.reset(seed=seed)
    _check_info(observation, info, first=True)
    trace: list[Any] = [observation, copy.deepcopy(info)]
    for _ in range(max_turns):
        reply = random_reply(info, rng, action_format, junk=0.3 * (seed % 2))
        observation, reward, terminated, truncated, info = env.step(reply)
        _check_info(observation, info, first=False)
        _check_step(env, reward, terminated, truncated, info)
        trace += [observation, reward, terminated, truncated, copy.deepcopy(info)]
        if terminated or truncated:
            break
    return trace


def _check_info(observation: Any, info: dict[str, Any], first: bool) -> None:
    _require(isinstance(observation, str), f"an observation must be a str, not {type(observation).__name__}")
    for key in ("player", "legal_actions", "parse", "messages"):
        _require(key in info, f"info has no {key!r}")
    legal = info["legal_actions"]
    _require(
        legal is None or (isinstance(legal, list) and all(isinstance(action, str) for action in legal)),
        f"info['legal_actions'] must be a list of str or None, not {legal!r}",
    )
    _require(legal is None or len(set(legal)) == len(legal), "info['legal_actions'] names an action twice")
    _require(info["parse"] in PARSES, f"info['parse'] must be one of {sorted(PARSES)}, not {info['parse']!r}")
    roles = [message["role"] for message in info["messages"]]
    _require(roles in (["user"], ["system", "user"]), f"info['messages'] must be one user message, not roles {roles}")
    _require(first or roles == ["user"], "the rules (a system message) must come with reset only")
    _require(
        info["messages"][-1]["content"] == observation, "the last message of info['messages'] is not the observation"
    )


def _check_step(
    env: gymnasium.Env[str, str], reward: Any, terminated: bool, truncated: bool, info: dict[str, Any]
) -> None:
    _require(isinstance(reward, float) and math.isfinite(reward), f"a reward must be a finite float, not {reward!r}")
    terms = info.get("reward_terms", {})
    _require(
        math.isclose(sum(terms.values()), reward, rel_tol=1e-9, abs_tol=1e-9),
        f"info['reward_terms'] {terms} do not add up to the reward {reward}",
    )
    if terminated:
        for key in ("returns", "outcome", "reward_terms"):
            _require(key in info, f"info has no {key!r} at the end of the episode")
        _require(
            info["outcome"] in OUTCOMES, f"info['outcome'] must be one of {sorted(OUTCOMES)}, not {info['outcome']!r}"
        )
        low, high = getattr(env.unwrapped, "reward_range", (-math.inf, math.inf))
        mine = info["returns"][info["player"]]
        _require(low <= mine <= high, f"the return {mine} is outside the declared range [{low}, {high}]")
    elif not truncated:
        _require(info.get("outcome") is None, "info has an 'outcome' before the episode ended")


def _check_copies(env: gymnasium.Env[str, str], seed: int) -> None:
    """A pickled and a deep copy, taken after reset, must play on exactly as the original."""
    _, info = env.reset(seed=seed)
    twins = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]  # noqa: S301 - our own bytes
    reply = random_reply(info, random.Random(seed))
    want = env.step(reply)
    for twin, how in zip(twins, ("pickled", "deep"), strict=True):
        _require(twin.step(reply) == want, f"a {how} copy played on differently")
