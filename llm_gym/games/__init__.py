"""One module (or folder) a game."""
