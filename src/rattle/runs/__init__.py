"""Runs: what is stored of an experiment's execution, and going on with it."""
