"""Rollouts: an experiment's worlds, and a policy that plays them."""
