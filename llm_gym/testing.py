"""Conformance checks for any text environment: ``check_text_env("mine/Env-v0")``."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import pickle
import random
from itertools import islice
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from llm_gym.opponents.scripted import play_scripted
from llm_gym.parsing import FORMATS, extract_action, format_action

JUNK = (
    *("", " ", "\x00", "\ud800", "\u202e\u200f", "²", "[", "<answer>", "```", "<think>"),
    *("}" * 99, "🥚" * 40, "x" * 1_000_000),
    *("\\boxed{", "\\boxed{\\boxed{}}", "\\boxed{no such action}", "\\boxed{1}\\boxed{2}", "\\boxed{²}"),
)
"""Replies that no environment may fail on."""
PARSES = {"ok", "malformed", "illegal"}
OUTCOMES = {"win", "loss", "draw", "invalid", "solved", "failed"}


class TextEnvError(AssertionError):
    """An environment breaks the contract of text environments. The message says which part and how."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise TextEnvError(message)


def check_text_env(env: str | gymnasium.Env[str, str], episodes: int = 20, seed: int = 0, max_turns: int = 500) -> None:
    """Checks that ``env`` keeps the contract of text environments, beyond Gymnasium's ``check_env``.

    Observations and actions are strings; ``info`` is complete and correct; ``reward_terms`` add up to the reward, and
    rewards to the return, which lies in ``env.reward_range`` if there is one; a seed fixes an episode, whatever was
    played before; no reply raises; nothing is printed; the global random state is not used; pickled and deep copies
    continue alike.

    Args:
        env: An id, or an environment that was not reset yet.
        episodes: Number of episodes of random legal replies. Every other episode has junk among them.
        seed: The first seed.
        max_turns: An episode is stopped after this many turns.

    Raises:
        TextEnvError: The first breach that was found.
    """
    env = gymnasium.make(env) if isinstance(env, str) else env
    check = _Check(env, max_turns)
    _require(check.action_format in FORMATS, f"unknown action format {check.action_format!r}")
    printed = io.StringIO()
    state = _global_random_state()
    with contextlib.redirect_stdout(printed):
        try:
            check_env(env.unwrapped, skip_render_check=env.spec is None, skip_close_check=True)
        except Exception as error:
            raise TextEnvError(f"gymnasium's check_env: {error}") from error
        with contextlib.redirect_stderr(printed):
            seeds = range(seed, seed + episodes)
            first = [check.episode(s) for s in seeds]
            _require(state == _global_random_state(), "the global random state was used")
            for s, trace in zip(seeds, first):
                _require(trace == check.episode(s), f"reset(seed={s}) and the same replies gave two different episodes")
            for junk in JUNK:
                check.reset(seed)
                check.step(junk)
            for turns in (0, 1):
                check.copies(seed, turns)
    _require(state == _global_random_state(), "the global random state was used")
    _require(printed.getvalue() == "", f"the environment printed {printed.getvalue()[:80]!r}")


def random_reply(info: dict[str, Any], rng: random.Random, action_format: str = "boxed", junk: float = 0.0) -> str:
    """A random legal reply; with probability ``junk``, or where legal actions cannot be listed, an element of JUNK."""
    if info["legal_actions"] and rng.random() >= junk:
        return format_action(rng.choice(info["legal_actions"]), action_format)
    return rng.choice(JUNK)


def _global_random_state() -> tuple[Any, bytes]:
    return random.getstate(), pickle.dumps(np.random.get_state())


class _Check:
    """Plays an environment and checks every step."""

    def __init__(self, env: gymnasium.Env[str, str], max_turns: int) -> None:
        self.env = env
        self.max_turns = max_turns

    @property
    def action_format(self) -> str:
        """The reply format of the agent's current seat."""
        return getattr(self.env.unwrapped, "action_format", "boxed")

    def episode(self, seed: int) -> list[Any]:
        """Plays one episode, with junk if ``seed`` is odd; returns everything that was observed."""
        start = self.reset(seed)
        trace: list[Any] = [copy.deepcopy(start)]
        if self.info.get("outcome") is not None:  # over before the agent's first turn: the first step says so
            trace.append(copy.deepcopy(self.step("")))
        rng, junk = random.Random(seed), 0.3 * (seed % 2)
        steps = play_scripted(self, lambda _, info: random_reply(info, rng, self.action_format, junk), start)
        trace += map(copy.deepcopy, islice(steps, self.max_turns))
        return trace

    def reset(self, seed: int) -> tuple[str, dict[str, Any]]:
        observation, self.info = self.env.reset(seed=seed)
        self.over, self.earned = False, 0.0
        self._check_info(observation, first=True)
        return observation, self.info

    def step(self, reply: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        before = self.info
        try:
            observation, reward, terminated, truncated, self.info = self.env.step(reply)
        except Exception as error:
            raise TextEnvError(f"the reply {reply[:40]!r} raised {type(error).__name__}: {error}") from error
        self._check_info(observation, first=False)
        self._check_parse(reply, before)
        self._check_reward(reward)
        self.over = terminated or truncated
        if terminated:
            self._check_end()
        elif not truncated:
            _require(self.info.get("outcome") is None, "info has an 'outcome' before the episode ended")
            _require(self.info["legal_actions"] != [], "info['legal_actions'] is empty before the episode ended")
        return observation, reward, terminated, truncated, self.info

    def copies(self, seed: int, turns: int) -> None:
        """A pickled and a deep copy, made after ``turns`` turns, must continue exactly as the original does."""
        rng = random.Random(seed)
        self.reset(seed)
        for _ in range(turns):
            self.step(random_reply(self.info, rng, self.action_format))
        if self.over:
            return
        try:
            twins = [pickle.loads(pickle.dumps(self.env)), copy.deepcopy(self.env)]  # noqa: S301 - our own bytes
        except Exception as error:
            raise TextEnvError(f"the environment cannot be copied: {error}") from error
        for _ in range(self.max_turns):
            if self.over:
                break
            reply = random_reply(self.info, rng, self.action_format)
            want = self.step(reply)
            for twin, how in zip(twins, ("pickled", "deep")):
                _require(twin.step(reply) == want, f"a {how} copy played on differently")

    def _check_info(self, observation: Any, first: bool) -> None:
        _require(isinstance(observation, str), f"an observation must be a str, not {type(observation).__name__}")
        info = self.info
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
        _require(
            roles in (["user"], ["system", "user"]), f"info['messages'] must be one user message, not roles {roles}"
        )
        _require(first or roles == ["user"], "the rules (a system message) must come with reset only")
        _require(
            info["messages"][-1]["content"] == observation,
            "the last message of info['messages'] is not the observation",
        )

    def _check_parse(self, reply: str, before: dict[str, Any]) -> None:
        """``info['parse']`` is right about ``reply``, as far as that can be known without the rules."""
        if before.get("outcome") is not None:  # the game was over before the reply
            return
        action, parse = extract_action(reply, self.action_format), self.info["parse"]
        if action is None:
            _require(parse == "malformed", f"{reply[:40]!r} marks no action, but info['parse'] is {parse!r}")
        elif action in (before["legal_actions"] or []):
            _require(parse == "ok", f"the legal action {action!r} was taken, but info['parse'] is {parse!r}")

    def _check_reward(self, reward: Any) -> None:
        _require(
            isinstance(reward, float) and math.isfinite(reward), f"a reward must be a finite float, not {reward!r}"
        )
        terms = self.info.get("reward_terms", {})
        _require(
            math.isclose(sum(terms.values()), reward, rel_tol=1e-9, abs_tol=1e-9),
            f"info['reward_terms'] {terms} do not add up to the reward {reward}",
        )
        self.earned += reward

    def _check_end(self) -> None:
        info = self.info
        for key in ("returns", "outcome", "reward_terms"):
            _require(key in info, f"info has no {key!r} at the end of the episode")
        _require(
            info["outcome"] in OUTCOMES, f"info['outcome'] must be one of {sorted(OUTCOMES)}, not {info['outcome']!r}"
        )
        low, high = getattr(self.env.unwrapped, "reward_range", (-math.inf, math.inf))
        mine = info["returns"][info["player"]]
        _require(low <= mine <= high, f"the return {mine} is outside the declared range [{low}, {high}]")
        _require(
            math.isclose(mine, self.earned, rel_tol=1e-6, abs_tol=1e-6),
            f"the rewards add up to {self.earned}, but info['returns'] says {mine}",
        )
