"""The Gymnasium environment of a game: one seat is the agent's, opponents play the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from llm_gym.match import GameSpec, Match, make_game
from llm_gym.opponents import OpponentFn, make_player
from llm_gym.parsing import format_action
from llm_gym.spaces import Unicode


class TextEnv(gymnasium.Env[str, str]):
    """A game of text with one seat for the agent.

    Observation and action are strings (:class:`llm_gym.spaces.Unicode`). The observation is the situation now. The
    action is the whole reply, from which :mod:`llm_gym.parsing` reads the game's action.

    ``info`` always holds ``player`` (the agent's seat), ``legal_actions`` (list of str; None where they cannot be
    listed), ``parse`` (how the last reply was read: ``ok``, ``malformed`` or ``illegal``) and ``messages`` (the
    observation, role-tagged; at reset the rules come first). A step with a reward, and every last step, has
    ``reward_terms``, which add up to the reward. The last step also has ``returns`` (one number per seat) and
    ``outcome``: ``win``, ``loss``, ``draw``, ``solved``, ``failed``, or ``invalid`` if the agent's reply ended it.

    Args:
        text_game: The rules: a :class:`llm_gym.TextGame` class, a callable that makes one, or its ``"module:name"``.
        opponent: A callable ``(observation, info) -> reply``, or a name: ``"random"``, ``"first"``, ``"minimax"``,
            ``"mcts(simulations=100)"``, ``"ismcts"``, ``"nash"`` or one of the game's own (:mod:`llm_gym.opponents`).
            From a list, one is drawn for each episode.
        seat: The agent's seat: a number, ``"random"``, or ``"alternate"`` (the next seat in each episode; seat
            ``seed % num_players`` where reset gets a seed).
        action_format: How a reply marks its action: ``boxed``, ``bracket``, ``tag``, ``fence``, ``plain``; by default
            the game's own. A list has one format for each seat.
        on_invalid: What a malformed or illegal reply does. ``lose``: the game ends, the offender gets -1.5 and every
            other player +0.5. ``retry:n``: up to n more tries in that turn, then ``lose``. ``penalty:x``: it costs x
            and the turn is tried again. ``random``: a random legal action is played instead.
        show_legal: Whether observations list the legal actions.
        random_opening: Each game begins with 0 to ``random_opening`` random legal moves; the seed fixes how many and
            which. They reach positions that the players' own moves would not.
        render_mode: ``"ansi"`` or None.
        **game_settings: Passed on to ``text_game``.

    Raises:
        ValueError: A setting is none of the above.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}

    def __init__(
        self,
        text_game: GameSpec,
        *,
        opponent: str | OpponentFn | Sequence[str | OpponentFn] = "random",
        seat: int | str = 0,
        action_format: str | Sequence[str] | None = None,
        on_invalid: str = "lose",
        show_legal: bool = False,
        random_opening: int = 0,
        render_mode: str | None = None,
        **game_settings: Any,
    ) -> None:
        self.game = make_game(text_game, **game_settings)
        seats = range(self.game.num_players)
        if seat not in ("alternate", "random") and not (type(seat) is int and seat in seats):
            raise ValueError(f"seat must be one of {', '.join(map(str, seats))}, alternate or random, not {seat!r}")
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be ansi or None, not {render_mode!r}")
        self.match = Match(self.game, action_format, on_invalid, show_legal, random_opening)
        self.render_mode = render_mode
        self.observation_space = Unicode()
        self.action_space = Unicode()
        self.reward_range = self.match.reward_range
        self.seat = 0
        self._seat_setting = seat
        several: list[Any] = list(opponent) if isinstance(opponent, (list, tuple)) else [opponent]
        if not several:
            raise ValueError("opponent must name at least one opponent, not an empty list")
        self._opponents = [one if callable(one) else make_player(one, self.game) for one in several]
        self._opponent = self._opponents[0]
        self._episode = -1
        self._started = False

    @property
    def action_format(self) -> str:
        """How the agent's replies mark their action in its current seat."""
        return self.match.formats[self.seat]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Starts an episode. A seed fixes everything in it, opponents included.

        An opponent can end the game before the agent's first turn, for example by an invalid reply. ``info`` then
        already has ``outcome``, and the first ``step`` ends the episode whatever the reply is.
        """
        super().reset(seed=seed)
        self._episode = self._episode + 1 if seed is None else seed
        seats = self.game.num_players
        if self._seat_setting == "alternate":
            self.seat = self._episode % seats
        elif self._seat_setting == "random":
            self.seat = int(self.np_random.random() * seats)
        else:
            self.seat = int(self._seat_setting)
        if len(self._opponents) > 1:
            self._opponent = self._opponents[int(self.np_random.random() * len(self._opponents))]
        self.match.reset(self.np_random, options)
        self._play_opponents()
        self._started = True
        return self.match.view(self.seat, with_rules=True)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Plays the agent's whole reply, which may be any string, and continues to the agent's next turn.

        Raises:
            ResetNeeded: The episode is over, or none was started.
            TypeError: ``action`` is not a string.
        """
        if not self._started:
            raise ResetNeeded("the episode is over, or none was started: call reset() before step()")
        match, seat = self.match, self.seat
        if match.current_player is not None:
            match.apply_reply(seat, action)
            self._play_opponents()
        observation, info = match.view(seat)
        over = match.current_player is None
        terms = match.pop_reward_terms(seat)
        if over or terms:
            info["reward_terms"] = terms
        self._started = not over
        return observation, float(sum(terms.values())), over, False, info

    def _play_opponents(self) -> None:
        match, game, opponent = self.match, self.game, self._opponent
        while (player := match.current_player) is not None and player != self.seat:
            if callable(opponent):
                first = not match.replies[player]
                match.apply_reply(player, opponent(*match.view(player, with_rules=first)))
            else:
                game.apply(opponent.choose(game, self.np_random))

    def scripted_reply(self, player: str, rng: np.random.Generator) -> str:
        """The reply that a scripted player (``"random"``, ``"minimax"``, ...) would give now in the agent's seat."""
        return format_action(make_player(player, self.game).choose(self.game, rng), self.action_format)

    def render(self) -> str | None:
        """The situation as the agent sees it, in render mode ``ansi``."""
        return self.game.observe(self.seat) if self.render_mode == "ansi" else None
