"""Supervised warm start: demonstrations, the fit, the embedded model."""
