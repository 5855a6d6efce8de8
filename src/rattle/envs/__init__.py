"""Worlds: the vector protocol, Snake under fog of war, and adapters for Gymnasium and PettingZoo."""
