"""Who can be evaluated: models, and the scripted players of the environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from accelerate import Accelerator
from tqdm import tqdm

from algos.config.schema import Config, SftSection
from algos.data.episodes import Episode, Turn
from algos.data.tasks import EnvKey, Start
from algos.engines.hf import HFEngine
from algos.errors import ConfigError
from algos.model.chat import Chat
from algos.model.load import check_model, load_model
from algos.rollout.environments import make_envs
from algos.run_folder import checkpoints as checkpoint
from algos.warm_start.embedded import tiny_model
from llm_gym import TextEnv
from llm_gym.match import Match
from llm_gym.opponents import PLAYERS, make_player
from llm_gym.parsing import format_action

Answer = Callable[[np.random.Generator], str]
"""What a scripted player replies now, given its chance."""


def answerer(name: str, match: Match) -> Answer:
    """The scripted player ``name`` of the game that ``match`` plays; ``uniform`` is random play, ``empty`` no text.

    Raises:
        ConfigError: There is none of that name, or it cannot play this game.
    """
    if name == "empty":
        return lambda rng: ""
    try:
        player = make_player("random" if name == "uniform" else name, match.game)
    except ValueError as error:
        raise ConfigError(str(error).replace("opponent", "policy", 1)) from None

    def reply(rng: np.random.Generator) -> str:
        seat = match.game.current_player
        assert seat is not None
        return format_action(player.choose(match.game, rng), match.formats[seat])

    return reply


def text_env(spec: EnvKey) -> TextEnv:
    """An environment of this package.

    Raises:
        ConfigError: It cannot be made, or it is another's: nothing is known of its game.
    """
    env = make_envs(spec, 1)[0].unwrapped
    if not isinstance(env, TextEnv):
        raise ConfigError(f"{spec.id}: scripted players play this package's environments only")
    return env


def play_scripted(starts: Sequence[Start], name: str, seed: int = 0, bar: bool = False) -> list[Episode]:
    """One episode a start; chance in the player's replies is fixed by ``seed`` and the start's number."""
    seats: dict[EnvKey, tuple[TextEnv, Answer]] = {}
    episodes = []
    for number, start in enumerate(tqdm(starts, unit="episode", disable=not bar or None)):
        if start.env not in seats:
            env = text_env(start.env)
            try:
                seats[start.env] = env, answerer(name, env.match)
            except gymnasium.error.Error as error:
                raise ConfigError(str(error)) from None
        episodes.append(_episode(*seats[start.env], start, np.random.default_rng([seed, number])))
    return episodes


def _episode(env: TextEnv, answer: Answer, start: Start, rng: np.random.Generator) -> Episode:
    observation, info = env.reset(seed=start.seed)
    episode = Episode(start.env.id, start.seed, player=info["player"], start=start)
    over = "outcome" in info
    while not over:
        turn = Turn([], [], [], observation, answer(rng))
        observation, reward, over, _, info = env.step(turn.reply)
        turn.reward, turn.parse, turn.player = reward, info["parse"], info["player"]
        episode.turns.append(turn)
    episode.terminated, episode.outcome, episode.last_observation = True, info["outcome"], observation
    episode.info = {key: value for key, value in info.items() if key != "messages"}
    return episode


def is_model(name: str) -> bool:
    """Whether ``name`` is meant as a model rather than as a scripted player."""
    return name == "tiny" or "/" in name or Path(name).expanduser().exists()


def known_scripted(name: str) -> str:
    """What to say of a name that is neither."""
    return f"{name!r} is no model folder and no scripted player ({', '.join(['uniform', 'empty', *PLAYERS])}, ...)"


def run_of(path: str) -> Path | None:
    """The run's folder that a checkpoint lies in; None of any other model."""
    folder = Path(path).expanduser()
    parents = (folder, folder.absolute().parent.parent) if folder.exists() else ()
    return next((parent for parent in parents if (parent / "checkpoints").is_dir()), None)


def check_player(path: str) -> str:
    """The model that is meant: of a run's folder its newest checkpoint.

    Raises:
        ConfigError: There is no model.
    """
    folder = Path(path).expanduser()
    if (folder / "checkpoints").is_dir():
        saved = checkpoint.all_of(folder)
        if not saved:
            raise ConfigError(f"--model {path}: this run has no checkpoint yet")
        return str(saved[-1])
    check_model(path)
    return path


class ModelPlayer:
    """A loaded model, ready to reply."""

    def __init__(self, path: str, config: Config, accelerator: Accelerator) -> None:
        name = tiny_model(config.env, config.rollout.context, SftSection()) if path == "tiny" else path
        self.model: Any
        self.model, tokenizer = load_model(name, config.model, trainable=False)
        self.model.to(accelerator.device)
        self.chat = Chat(tokenizer, config.rollout.thinking)
        self.engine = HFEngine(self.model, self.chat.stop_ids, config.rollout.max_new_tokens)
