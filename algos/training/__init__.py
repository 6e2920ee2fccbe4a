"""One training run: policy, optimizer, update; steps, evaluation, checkpoints."""
