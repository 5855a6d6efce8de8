"""Worlds: the vector protocol, Snake under fog of war, and adapters for Gymnasium and PettingZoo.

Importing this package registers `rattle/Snake-v0` with Gymnasium.
"""

from rattle.envs.registration import register

register()
