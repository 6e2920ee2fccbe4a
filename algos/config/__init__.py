"""Settings: their schema, where they come from, hardware profiles."""
