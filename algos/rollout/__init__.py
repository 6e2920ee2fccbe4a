"""From an environment's words to rows of tokens."""
