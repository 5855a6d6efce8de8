"""Rattle: distributed reinforcement learning whose runs can be repeated, resumed, queried and replayed."""

import sys
from importlib.metadata import version

__version__ = version("rattle")

# `import gymnasium, rattle` is enough for `gymnasium.make("rattle/Snake-v0")`. Gymnasium has no plug-ins to announce it
# by, and importing it from here would double the time that the command line takes to answer.
if "gymnasium" in sys.modules:
    import rattle.envs  # noqa: F401
