"""No text shows what its reader cannot know, in any of OpenSpiel's games with hidden information.

States that differ only in what a player cannot know must give that player equal texts. Where such states come from:

- ``draws``: OpenSpiel's own resampling, where it has one that changes anything, or ours;
- ``deals``: two deals that differ in one card; but for its owner (or, in Hanabi, but for all others) nothing changes;
- ``tensors``: random games that led to equal observation tensors, which another part of OpenSpiel computes;
- ``own play``: random games in which the player chose alike from equal legal actions.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

pyspiel = pytest.importorskip("pyspiel")
pytest.importorskip("open_spiel.python.games")

from llm_gym.games.openspiel import OpenSpiel  # noqa: E402
from llm_gym.games.openspiel.tree import Node  # noqa: E402
from llm_gym.opponents.redraw import can_redraw, redraw  # noqa: E402
from llm_gym.opponents.search import RESAMPLED  # noqa: E402

# Game -> how many of its first chance outcomes are dealt in secret, each to one player.
DEALS = {
    **{"cribbage": 12, "go_fish": 14, "hanabi": 10, "python_block_dominoes": 14, "python_liars_poker": 20},
    **{"python_team_dominoes": 28, "skat": 32, "spades": 52, "tiny_bridge_2p": 2, "tiny_bridge_4p": 4},
    **{"social_deduction": 1, "coin_game": 2, "repeated_leduc_poker": 2, "first_sealed_auction": 2},
}
FIRST_SECRET = {"dou_dizhu": 6}  # before it come the start player and the face-up card, which all see
DEALS |= {"bridge": 52, "dou_dizhu": 52}
# Later, cards left over go to a player of Dou Dizhu, hints and questions tell of cards, and Leduc shows those of the
# hand that ended.
TRIES = {"bridge": 2, "python_liars_poker": 4, "python_block_dominoes": 5, "python_team_dominoes": 5}  # slow ones
LOOKS = {"dou_dizhu": 1, "go_fish": 1, "hanabi": 1, "repeated_leduc_poker": 2}
OWN_PLAY = {"phantom_ttt_ir"}
NOT_COVERED = {
    # Looked at by name below.
    *("bridge_uncontested_bidding", "coordinated_mp", "negotiation", "tarok"),
    # All that is public is printed in full; nothing is hidden but what others choose at the same time.
    "colored_trails",
}


def hides_something(name: str) -> bool:
    try:
        game = OpenSpiel(name)
    except ValueError:  # it does not play: see test_openspiel.py
        return False
    return not game.perfect_information and game.num_players > 1


GAMES = [name for name in pyspiel.registered_names() if hides_something(name)]
DRAWN = [name for name in GAMES if name in RESAMPLED or can_redraw(OpenSpiel(name))]
BY_TENSOR = [name for name in GAMES if name not in {*DRAWN, *DEALS, *OWN_PLAY, *NOT_COVERED}]


def text_of(game: OpenSpiel, state: Any, player: int) -> str:
    other = game.clone()
    other.node = Node(state.clone(), None)
    return other.observe(player)


@pytest.mark.parametrize("name", DRAWN)
def test_redrawn_secrets_do_not_show(name: str) -> None:
    game, rng, changed = OpenSpiel(name), random.Random(0), 0
    for seed in range(4):
        game.reset(np.random.default_rng(seed))
        for _ in range(8):
            player = game.current_player
            if player is None:
                break
            for _ in range(3):
                if name in RESAMPLED:
                    state = game.state.resample_from_infostate(player, rng.random)
                else:
                    state = redraw(game.state, player, rng)
                changed += str(state) != str(game.state)
                assert text_of(game, state, player) == game.observe(player)
                assert state.legal_actions() == game.state.legal_actions()
            game.apply(rng.choice(game.legal_actions()))
    assert changed > 0


def dealt(game: OpenSpiel, actions: list[int]) -> Any | None:
    """The state after these outcomes of chance, if they are possible and all there is to deal."""
    state = game.spiel_game.new_initial_state()
    for action in actions:
        if not state.is_chance_node() or action not in state.legal_actions():
            return None
        state.apply_action(action)
    return None if state.is_chance_node() else state


def neighbour_deals(game: OpenSpiel, secret: range, tries: int, rng: random.Random) -> list[tuple[int, Any]]:
    """Deals that differ from the game's in one card or in two exchanged ones; with how many."""
    actions, found = game.state.history(), []
    for place in rng.sample(secret, min(len(secret), tries)):
        before = game.spiel_game.new_initial_state()
        for action in actions[:place]:
            before.apply_action(action)
        for other in rng.sample(before.legal_actions(), min(len(before.legal_actions()), tries)):
            if other == actions[place]:
                continue
            exchanged, cards = list(actions), 1
            if other in actions[place + 1 : secret.stop]:
                exchanged[actions.index(other, place + 1)], cards = actions[place], 2
            exchanged[place] = other
            state = dealt(game, exchanged)
            if state is not None:
                found.append((cards, state))
    return found


@pytest.mark.parametrize("name", sorted(DEALS))
def test_a_card_shows_to_its_owner_alone(name: str) -> None:
    game, rng, changed = OpenSpiel(name), random.Random(0), 0
    for seed in range(3):
        game.reset(np.random.default_rng(seed))
        deals = neighbour_deals(game, range(FIRST_SECRET.get(name, 0), DEALS[name]), TRIES.get(name, 12), rng)
        for cards, state in deals:
            twin = game.clone()
            twin.node = Node(state.clone(), None)
            run = game.clone()
            for _ in range(LOOKS.get(name, 5)):
                seats = range(game.num_players)
                if (
                    "face up card" in run.observe(0)
                    and run.observe(0).split("face")[1] != twin.observe(0).split("face")[1]
                ):
                    break  # the card that all see is another
                affected = [seat for seat in seats if run.observe(seat) != text_of(twin, twin.node.state, seat)]
                impostors = 2 if name == "social_deduction" else 1  # one player less, another more
                assert len(affected) <= cards * impostors, (run.observe(0), twin.observe(0))
                changed += len(affected)
                if run.node.player < 0 or run.node.player != twin.node.state.current_player():
                    break
                common = set(run.state.legal_actions()) & set(twin.node.state.legal_actions())
                if not common:
                    break
                action = rng.choice(sorted(common))
                run.node, twin.node = run.node.after(action), twin.node.after(action)
    assert changed > 0


def knowledge(game: OpenSpiel, player: int) -> Any:
    kind, state = game.spiel_game.get_type(), game.state
    if kind.provides_information_state_tensor:
        return tuple(state.information_state_tensor(player))
    if kind.provides_observation_tensor:
        return tuple(state.observation_tensor(player))
    return tuple(game.legal_actions())


@pytest.mark.parametrize("name", [*BY_TENSOR, *sorted(OWN_PLAY)])
def test_who_knows_the_same_reads_the_same(name: str) -> None:
    game, rng, read = OpenSpiel(name), random.Random(0), {}
    compared = 0
    for number in range(250 if game.spiel_game.max_game_length() < 100 else 60):
        game.reset(np.random.default_rng(number % 3))
        way: list[list[Any]] = [[] for _ in range(game.num_players)]
        for _ in range(12):
            player = game.current_player
            if player is None:
                break
            text, history = game.observe(player), tuple(game.state.history())
            if name == "kriegspiel":  # the tensor leaves out when and how often the umpire called, which all hear
                text = "\n".join(sorted(line for line in text.splitlines() if line != "? Illegal move."))
            key = (player, knowledge(game, player), *way[player])
            first, text_then = read.setdefault(key, (history, text))
            assert text_then == text
            compared += first != history
            legal = game.legal_actions()
            choices = legal[:3] if rng.random() < 0.7 else legal
            action = rng.choice(choices)
            before = knowledge(game, player)
            game.apply(action)
            way[player].append((before, action, game.current_player == player))
    assert compared > 0


def test_coordinated_mp_hides_the_first_choice() -> None:
    texts: dict[tuple[int, ...], set[str]] = {}
    game = OpenSpiel("coordinated_mp")
    for seed in range(20):
        for choice in ("Heads", "Tails"):
            game.reset(np.random.default_rng(seed))
            game.apply(choice)
            drawn = tuple(move.action for move in game.state.full_history() if move.player < 0)
            texts.setdefault(drawn, set()).add(game.observe(1))
    assert len(texts) > 1
    assert all(len(seen) == 1 for seen in texts.values())


def test_negotiation_shows_own_values_alone() -> None:
    game = OpenSpiel("negotiation")
    for seed in range(5):
        game.reset(np.random.default_rng(seed))
        values = [line for line in str(game.state).splitlines() if "util vec" in line]
        for player in range(2):
            assert values[player] in game.observe(player)
            assert values[1 - player].split(":")[0] not in game.observe(player)


def test_bridge_partners_read_different_hands() -> None:
    game = OpenSpiel("bridge_uncontested_bidding")
    game.reset(np.random.default_rng(0))
    cards = [
        [set(suit) for suit in game.observe(player).split("\n")[1].split(" ")[0].split(".")] for player in range(2)
    ]
    assert [sum(map(len, hand)) for hand in cards] == [13, 13]
    assert all(not mine & theirs for mine, theirs in zip(*cards))


def test_tarok_shows_own_cards_alone() -> None:
    game = OpenSpiel("tarok")
    for seed in range(5):
        game.reset(np.random.default_rng(seed))
        hands = [set(game.observe(player).split("\n")[1].split(";")[0].split(",")) for player in range(3)]
        assert [len(hand) for hand in hands] == [16, 16, 16]
        assert len(set.union(*hands)) == 48


def test_every_game_with_secrets_is_looked_at() -> None:
    assert set(GAMES) == {*DRAWN, *DEALS, *OWN_PLAY, *BY_TENSOR, *NOT_COVERED}
    kinds = [OpenSpiel(name).spiel_game.get_type() for name in BY_TENSOR]
    assert all(kind.provides_information_state_tensor or kind.provides_observation_tensor for kind in kinds)
