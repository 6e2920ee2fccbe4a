"""Pure functions on tensors; each names its equation."""
