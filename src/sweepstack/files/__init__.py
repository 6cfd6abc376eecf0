"""Writes files whole or not at all, makes files that only their owner can read, and removes temporary folders."""
