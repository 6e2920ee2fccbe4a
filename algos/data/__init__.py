"""From turns to batches of rows."""
