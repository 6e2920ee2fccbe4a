"""Trainers for language-model agents on text environments, one script an algorithm."""
