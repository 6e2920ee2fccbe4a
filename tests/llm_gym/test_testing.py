"""``check_text_env`` passes what keeps the contract, and names each breach of it."""

import random
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

from llm_gym import IllegalAction, TextEnv, TextGame
from llm_gym.games.tic_tac_toe import TicTacToe
from llm_gym.testing import JUNK, TextEnvError, check_text_env, random_reply

Step = list[Any]
"""Observation, reward, terminated, truncated, info, as a fault finds and leaves them."""
OBSERVATION, REWARD, TERMINATED, TRUNCATED, INFO = range(5)
Fault = Callable[["Faulty", Step, str | None], None]


class Faulty(TextEnv):
    """Tic-tac-toe with one fault in it; the reply is None at reset."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(TicTacToe, opponent="random", seat="alternate")
        self.fault = fault
        self.memory: list[Any] = []
        self.own_rng = random.Random()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = super().reset(seed=seed)
        result = [observation, 0.0, False, False, info]
        self.fault(self, result, None)
        return result[OBSERVATION], result[INFO]

    def step(self, action: str) -> Any:
        result = list(super().step(action))
        self.fault(self, result, action)
        return tuple(result)


def say(result: Step, observation: str) -> None:
    result[OBSERVATION] = result[INFO]["messages"][-1]["content"] = observation


def change(key: str, value: Any, env: Faulty, result: Step, reply: str | None, at_end: bool = False) -> None:
    if not at_end or result[TERMINATED]:
        result[INFO][key] = value


def drop(key: str, env: Faulty, result: Step, reply: str | None) -> None:
    result[INFO].pop(key, None)


def pay(bonus: float, env: Faulty, result: Step, reply: str | None) -> None:
    """The bonus is in the reward, and in its terms, but not in the returns."""
    if result[TERMINATED]:
        result[REWARD] += bonus
        result[INFO]["reward_terms"]["bonus"] = bonus


def pay_in_secret(env: Faulty, result: Step, reply: str | None) -> None:
    result[REWARD] += 0.1


def pay_too_much(env: Faulty, result: Step, reply: str | None) -> None:
    if result[TERMINATED]:
        result[REWARD] = result[INFO]["returns"][env.seat] = 99.0
        result[INFO]["reward_terms"] = {"game": 99.0}


def pay_infinity(env: Faulty, result: Step, reply: str | None) -> None:
    if result[TERMINATED]:
        result[REWARD] = float("-inf")


def pay_an_integer(env: Faulty, result: Step, reply: str | None) -> None:
    result[REWARD] = int(result[REWARD])


def observe_bytes(env: Faulty, result: Step, reply: str | None) -> None:
    result[OBSERVATION] = result[OBSERVATION].encode()


def observe_another_message(env: Faulty, result: Step, reply: str | None) -> None:
    result[OBSERVATION] += "!"


def tell_the_rules_again(env: Faulty, result: Step, reply: str | None) -> None:
    result[INFO]["messages"] = [{"role": "system", "content": "rules"}, result[INFO]["messages"][-1]]


def repeat_the_conversation(env: Faulty, result: Step, reply: str | None) -> None:
    result[INFO]["messages"] = [result[INFO]["messages"][-1]] * 3


def repeat_a_legal_action(env: Faulty, result: Step, reply: str | None) -> None:
    result[INFO]["legal_actions"] = result[INFO]["legal_actions"] * 2


def hide_legal_actions(env: Faulty, result: Step, reply: str | None) -> None:
    if reply is not None:
        result[INFO]["legal_actions"] = []


def raise_on_superscripts(env: Faulty, result: Step, reply: str | None) -> None:
    if reply and "²" in reply:
        int("²")


def raise_on_surrogates(env: Faulty, result: Step, reply: str | None) -> None:
    (reply or "").encode()


def draw_unseeded(env: Faulty, result: Step, reply: str | None) -> None:
    say(result, f"{result[OBSERVATION]}\n{env.own_rng.random()}")


def draw_unseeded_while_playing(env: Faulty, result: Step, reply: str | None) -> None:
    if reply is not None:
        draw_unseeded(env, result, reply)


def draw_from_random(env: Faulty, result: Step, reply: str | None) -> None:
    random.random()


def draw_from_numpy(env: Faulty, result: Step, reply: str | None) -> None:
    np.random.random()


def seed_globally(env: Faulty, result: Step, reply: str | None) -> None:
    random.seed(5)


def remember_earlier_episodes(env: Faulty, result: Step, reply: str | None) -> None:
    env.memory.append(reply)
    if reply is not None and len(env.memory) > 60:
        say(result, result[OBSERVATION] + "\nYou know me.")


def print_a_line(stream: str, env: Faulty, result: Step, reply: str | None) -> None:
    print("thinking ...", file=getattr(sys, stream))


def hold_a_lock(env: Faulty, result: Step, reply: str | None) -> None:
    env.memory = [threading.Lock()]


SHARED: list[Any] = []


def share_state_between_copies(env: Faulty, result: Step, reply: str | None) -> None:
    if reply is None:
        SHARED.clear()
    else:
        SHARED.append(reply)
        say(result, f"{result[OBSERVATION]}\nturn {len(SHARED)}")


FAULTS: list[tuple[Fault, str]] = [
    *[(partial(drop, key), f"info has no '{key}'$") for key in ("player", "legal_actions", "parse", "messages")],
    *[(partial(drop, key), f"info has no '{key}' at the end") for key in ("returns", "outcome")],
    (partial(drop, "reward_terms"), "do not add up|info has no 'reward_terms' at the end"),
    (partial(change, "legal_actions", ("0", "1")), "must be a list of str or None, not"),
    (partial(change, "legal_actions", [0, 1]), "must be a list of str or None, not"),
    (repeat_a_legal_action, "names an action twice"),
    (hide_legal_actions, "is empty before the episode ended"),
    (partial(change, "parse", "fine"), "must be one of .*, not 'fine'"),
    (partial(change, "parse", "ok"), "marks no action, but info\\['parse'\\] is 'ok'"),
    (partial(change, "parse", "malformed"), "the legal action '\\d' was taken, but info\\['parse'\\] is 'malformed'"),
    (partial(change, "outcome", "victory", at_end=True), "must be one of .*, not 'victory'"),
    (partial(change, "outcome", "draw"), "'outcome' before the episode ended"),
    (
        partial(change, "returns", [0.25, 0.25], at_end=True),
        "the rewards add up to .*, but info\\['returns'\\] says 0.25",
    ),
    (partial(pay, 0.1), "the rewards add up to"),
    (pay_in_secret, "do not add up to the reward"),
    (pay_too_much, "99.0 is outside the declared range"),
    (pay_infinity, "reward must be a finite float|check_env"),
    (pay_an_integer, "a reward must be a finite float, not"),
    (observe_bytes, "check_env"),
    (observe_another_message, "the last message .* is not the observation"),
    (tell_the_rules_again, "must come with reset only"),
    (repeat_the_conversation, "must be one user message"),
    (raise_on_superscripts, "the reply '.*².*' raised ValueError: invalid literal"),
    (raise_on_surrogates, r"the reply '\\ud800' raised UnicodeEncodeError"),
    (draw_unseeded, "check_env|two different episodes"),
    (draw_unseeded_while_playing, "check_env|two different episodes"),
    (draw_from_random, "the global random state was used"),
    (draw_from_numpy, "the global random state was used"),
    (seed_globally, "the global random state was used"),
    (remember_earlier_episodes, "two different episodes"),
    (partial(print_a_line, "stdout"), "the environment printed 'thinking ..."),
    (partial(print_a_line, "stderr"), "the environment printed 'thinking ..."),
    (hold_a_lock, "the environment cannot be copied: cannot pickle"),
    (share_state_between_copies, "copy played on differently"),
]


def name(fault: Fault) -> str:
    return "-".join(map(str, (fault.func.__name__, *fault.args))) if isinstance(fault, partial) else fault.__name__


@pytest.mark.filterwarnings("ignore:.*The reward is an inf value")
@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[name(fault) for fault, _ in FAULTS])
def test_names_the_breach(fault: Fault, message: str) -> None:
    with pytest.raises(TextEnvError, match=message):
        check_text_env(Faulty(fault), episodes=8)


def test_the_same_environment_without_a_fault_passes() -> None:
    played: list[str | None] = []
    check_text_env(Faulty(partial(note, played)), episodes=8)
    assert set(JUNK) <= set(played)


def note(played: list[str | None], env: Faulty, result: Step, reply: str | None) -> None:
    played.append(reply)


class Guess(TextGame):
    """One turn, one player, free text, a hidden draw."""

    action_format = "plain"
    reward_range = (0.0, 1.0)

    def reset(self, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        self.current_player, self.right = 0, False
        self.secret = str(rng.integers(3))

    def observe(self, player: int) -> str:
        return "Guess 0, 1 or 2." if self.current_player == 0 else f"It was {self.secret}."

    def apply(self, action: str) -> None:
        if not action:
            raise IllegalAction("say something")
        self.right, self.current_player = action == self.secret, None

    def returns(self) -> list[float]:
        return [float(self.right)]


@pytest.mark.parametrize("on_invalid", ["lose", "retry:2", "penalty:0.3", "random"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"seat": 1, "opponent": "minimax"}, {"seat": "random", "show_legal": True}, {"action_format": "tag"}],
    ids=str,
)
def test_tic_tac_toe_passes_however_it_is_set(settings: dict[str, Any], on_invalid: str) -> None:
    env = gymnasium.make("llmgym/TicTacToe-v0", on_invalid=on_invalid, **settings)
    check_text_env(env, episodes=6)
    assert env.unwrapped.match.on_invalid == on_invalid.partition(":")[0]


@pytest.mark.parametrize("on_invalid", ["lose", "retry:2", "penalty:0.3"])
def test_a_free_text_game_of_one_turn_passes(on_invalid: str) -> None:
    env = TextEnv(Guess, on_invalid=on_invalid)
    check_text_env(env, episodes=6)
    assert env.reset(seed=0)[1]["legal_actions"] is None


def test_random_replies_are_legal_or_junk_as_asked() -> None:
    rng, info = random.Random(0), {"legal_actions": ["a", "b"]}
    assert {random_reply(info, rng) for _ in range(50)} == {r"\boxed{a}", r"\boxed{b}"}
    assert {random_reply(info, rng, "tag") for _ in range(50)} == {"<answer>a</answer>", "<answer>b</answer>"}
    assert {random_reply(info, rng, junk=1.0) for _ in range(500)} == set(JUNK)
    assert {random_reply({"legal_actions": None}, rng) for _ in range(500)} == set(JUNK)
