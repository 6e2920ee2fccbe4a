"""Playing fixed sets of games, and what they say of a player."""
