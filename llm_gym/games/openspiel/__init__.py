"""Every game of OpenSpiel, as text."""

from llm_gym.games.openspiel.game import OpenSpiel

__all__ = ["OpenSpiel"]
