"""Episodes: environments, conversations, self-play, and which starts are drawn."""
