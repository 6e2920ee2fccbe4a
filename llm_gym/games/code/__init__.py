"""What the games share in which players write programs."""
