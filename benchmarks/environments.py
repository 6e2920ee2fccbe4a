"""Environment steps per CPU-second, reset and import times, beside other libraries: prints Markdown tables.

    python benchmarks/environments.py --rounds 15 --seconds 0.3

Every contender plays uniformly random legal moves. The rounds are interleaved, so that a slow spell of the machine
falls on all of them alike; a row is the median of its rounds. A library that is not installed is said to be missing.
A step of ``llm_gym`` holds the agent's move, read out of a ``\\boxed{}`` reply, and the opponent's answer; a step of
every other library is one move. So moves per CPU-second stand beside steps.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Play = Callable[[int], tuple[int, int]]
"""Plays so many episodes; returns how many steps and how many moves that were."""

RNG = random.Random(0)


def pick(legal: list) -> object:
    return legal[int(RNG.random() * len(legal))]


def llm_gym_env(env_id: str) -> Play:
    import gymnasium

    import llm_gym  # noqa: F401 - registers the ids

    env = gymnasium.make(env_id)
    env.reset(seed=0)
    game = env.unwrapped.game

    def play(episodes: int) -> tuple[int, int]:
        steps = 0
        for _ in range(episodes):
            _, info = env.reset()
            over = False
            while not over:
                _, _, over, _, info = env.step("\\boxed{" + pick(info["legal_actions"]) + "}")
                steps += 1
        return steps, round(steps * moves_a_step)

    # Moves are counted once, outside the measurement: counting within it would cost time.
    moves_a_step, moves, apply = 1.0, 0, game.apply

    def counted(action: str) -> None:
        nonlocal moves
        apply(action)
        moves += 1

    game.apply = counted
    steps, _ = play(3000)
    del game.apply
    moves_a_step = moves / steps
    return play


def pyspiel_game(name: str, strings: bool) -> Play:
    """Raw OpenSpiel; with ``strings`` it also makes the two strings a text environment needs of each state."""
    import pyspiel

    game = pyspiel.load_game(name)

    def play(episodes: int) -> tuple[int, int]:
        steps = 0
        for _ in range(episodes):
            state = game.new_initial_state()
            while not state.is_terminal():
                if state.is_chance_node():
                    state.apply_action(pick(state.legal_actions()))
                    continue
                legal = state.legal_actions()
                if strings:
                    player = state.current_player()
                    state.information_state_string(player)
                    names = [state.action_to_string(player, action) for action in legal]
                    state.apply_action(legal[names.index(pick(names))])
                else:
                    state.apply_action(pick(legal))
                steps += 1
        return steps, steps

    return play


def pettingzoo_aec(wrapped: bool) -> Play:
    from pettingzoo.classic import tictactoe_v3

    env = tictactoe_v3.env() if wrapped else tictactoe_v3.raw_env()
    return aec_play(env)


def shimmy_openspiel() -> Play:
    from shimmy.openspiel_compatibility import OpenSpielCompatibilityV0

    return aec_play(OpenSpielCompatibilityV0(game_name="tic_tac_toe"))


def aec_play(env) -> Play:
    """The loop of PettingZoo's manual."""

    def play(episodes: int) -> tuple[int, int]:
        steps = 0
        for episode in range(episodes):
            env.reset(seed=episode)
            for _ in env.agent_iter():
                observation, _, terminated, truncated, info = env.last()
                if terminated or truncated:
                    env.step(None)
                    continue
                mask = info["action_mask"] if "action_mask" in info else observation["action_mask"]
                env.step(int(pick(mask.nonzero()[0])))
                steps += 1
        return steps, steps

    return play


def textarena_env(env_id: str) -> Play:
    """Made anew for each episode, as its manual does: reused, its default observation holds all earlier games."""
    import textarena

    def play(episodes: int) -> tuple[int, int]:
        steps = 0
        for episode in range(episodes):
            env = textarena.make(env_id)
            env.reset(num_players=2, seed=episode)
            over, free = False, list(range(9))
            while not over:  # it does not list legal moves other than in its prose, so the loop keeps count
                env.get_observation()
                move = pick(free)
                free.remove(move)
                over, _ = env.step(f"[{move}]")
                steps += 1
            env.close()
        return steps, steps

    return play


@dataclass
class Contender:
    name: str
    make: Callable[[], Play]
    play: Play | None = None
    missing: str = ""
    steps: list[float] = field(default_factory=list)
    moves: list[float] = field(default_factory=list)

    def prepare(self) -> None:
        try:
            self.play = self.make()
            self.play(200)
        except Exception as error:
            self.play, self.missing = None, str(error).splitlines()[0]

    def measure(self, seconds: float) -> None:
        if self.play is None:
            return
        gc.collect()
        steps = moves = 0
        start = time.process_time()
        while (elapsed := time.process_time() - start) < seconds:
            played = self.play(50)
            steps, moves = steps + played[0], moves + played[1]
        self.steps.append(steps / elapsed)
        self.moves.append(moves / elapsed)


TIC_TAC_TOE = [
    Contender("llm_gym, gymnasium.make", lambda: llm_gym_env("llmgym/TicTacToe-v0")),
    Contender("raw pyspiel, no text", lambda: pyspiel_game("tic_tac_toe", strings=False)),
    Contender("raw pyspiel and its two strings", lambda: pyspiel_game("tic_tac_toe", strings=True)),
    Contender("PettingZoo, raw_env", lambda: pettingzoo_aec(wrapped=False)),
    Contender("PettingZoo, wrapped env", lambda: pettingzoo_aec(wrapped=True)),
    Contender("TextArena, raw", lambda: textarena_env("TicTacToe-v0-raw")),
    Contender("TextArena, default wrappers", lambda: textarena_env("TicTacToe-v0")),
    Contender("Shimmy, OpenSpiel", shimmy_openspiel),
]
KUHN_POKER = [
    Contender("llm_gym, gymnasium.make", lambda: llm_gym_env("llmgym/KuhnPoker-v0")),
    Contender("raw pyspiel, no text", lambda: pyspiel_game("kuhn_poker", strings=False)),
    Contender("raw pyspiel and its two strings", lambda: pyspiel_game("kuhn_poker", strings=True)),
]


def race(title: str, contenders: list[Contender], rounds: int, seconds: float) -> None:
    for contender in contenders:
        contender.prepare()
    for _ in range(rounds):
        for contender in contenders:
            contender.measure(seconds)
    ours = contenders[0]
    print(f"\n{title}: medians of {rounds} interleaved rounds of {seconds} CPU-seconds\n")
    print("| | steps per CPU-second | lowest to highest round | moves per CPU-second | our moves to theirs |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for contender in contenders:
        if contender.play is None:
            print(f"| {contender.name} | missing: {contender.missing} | | | |")
            continue
        steps, moves = statistics.median(contender.steps), statistics.median(contender.moves)
        spread = f"{min(contender.steps):,.0f} to {max(contender.steps):,.0f}"
        ratio = f"{statistics.median(ours.moves) / moves:.2f}" if ours.moves else "-"
        print(f"| {contender.name} | {steps:,.0f} | {spread} | {moves:,.0f} | {ratio} |")


def reset_microseconds(env_id: str, seeded: bool, rounds: int) -> float:
    import gymnasium

    env = gymnasium.make(env_id)
    times = []
    for _ in range(rounds):
        start = time.process_time()
        for i in range(2000):
            env.reset(seed=i if seeded else None)
        times.append((time.process_time() - start) / 2000)
    return statistics.median(times) * 1e6


def import_milliseconds(statement: str, before: str, rounds: int) -> tuple[float, float]:
    """Wall and CPU time of ``statement`` in a fresh process that has run ``before``."""
    program = (
        f"{before}\nimport time\nwall, cpu = time.perf_counter(), time.process_time()\n{statement}\n"
        "print(time.perf_counter() - wall, time.process_time() - cpu)"
    )
    runs = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        runs.append([float(number) * 1000 for number in done.stdout.split()])
    return statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds; rows are their medians")
    parser.add_argument("--seconds", type=float, default=0.3, help="CPU-seconds of one contender in one round")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)

    race("Tic-tac-toe", TIC_TAC_TOE, arguments.rounds, arguments.seconds)
    import gymnasium

    import llm_gym  # noqa: F401 - registers the ids

    ids = [env_id for env_id in ("llmgym/TicTacToe-v0", "llmgym/KuhnPoker-v0") if env_id in gymnasium.registry]
    if "llmgym/KuhnPoker-v0" in ids:
        race("Kuhn poker", KUHN_POKER, arguments.rounds, arguments.seconds)

    print("\n| reset | microseconds of CPU, without a seed | with a seed |\n| --- | ---: | ---: |")
    for env_id in ids:
        times = [reset_microseconds(env_id, seeded, arguments.rounds) for seeded in (False, True)]
        print(f"| {env_id} | {times[0]:.1f} | {times[1]:.1f} |")

    print("\n| import, in a fresh process | milliseconds | of CPU |\n| --- | ---: | ---: |")
    for statement, before in (
        ("import llm_gym", ""),
        ("import numpy", ""),
        ("import gymnasium", "import numpy"),
        ("import llm_gym", "import gymnasium"),
    ):
        wall, cpu = import_milliseconds(statement, before, arguments.rounds)
        print(f"| {statement}{f', after {before}' if before else ''} | {wall:.0f} | {cpu:.0f} |")


if __name__ == "__main__":
    main()
