"""Processes, sharding, offline nodes, memory."""
