"""Exact values of a policy in games small enough to walk."""
