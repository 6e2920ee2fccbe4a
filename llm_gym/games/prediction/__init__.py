"""The prediction game: one player writes a program, the other says what it prints."""

from llm_gym.games.prediction.game import PredictionGame

__all__ = ["PredictionGame"]
