"""Runs: what is stored of an experiment's execution, and resuming it."""
