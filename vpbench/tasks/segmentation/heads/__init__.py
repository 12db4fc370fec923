"""Heads of dense tasks, one per file."""
