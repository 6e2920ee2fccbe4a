"""What surrounds training: configuration, checkpoints, evaluation, reports."""
