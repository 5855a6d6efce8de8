"""Environments that are classes of users: what they play, what they are told, and what is said of their faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rattle.envs.errors import EnvError, NotImported, UnknownEnvironment
from rattle.envs.registry import make_worlds, validate
from rattle.envs.vector import VectorWorlds
from rattle.errors import RattleError
from rattle.settings.sources import load_settings
from rattle.wire.arrays import DTYPES
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

EXAMPLE = (Path(__file__).parents[2] / "examples" / "extend" / "my_world.py").read_text()

#: Two agents, which end by themselves; the second observes codes, and ends later.
PAIRS = """
    import numpy as np
    from rattle.extend import CodeSpace, DiscreteSpace, Worlds

    class Pairs(Worlds):
        agents_per_world = 2
        metric_names = ("moves",)

        def spaces(self):
            return CodeSpace(cells=2, codes=3), DiscreteSpace(n=2)

        def allocate(self):
            self.left = np.zeros(self.num_slots, np.int64)

        def start(self, worlds):
            slots = self.slots(worlds)
            self.left[slots] = 2 + np.arange(len(slots)) % 2 + (self.random(worlds, 2) < 0.5).reshape(-1)
            self.observation[slots] = 1

        def advance(self, action):
            self.left -= 1
            self.metrics["moves"] += self.active
            self.reward[:] = 1
            self.terminated[:] = self.left <= 0
            self.observation[:, 0] = 1 + action
"""
OTHERS = """
    import gymnasium
    import numpy as np
    from gymnasium.spaces import Box, Discrete
    from pettingzoo import ParallelEnv
    from rattle.extend import DiscreteSpace, FloatSpace, Worlds

    class Lake(gymnasium.Env):
        observation_space, action_space = Box(-1, 1, (2,)), Discrete(2)

        def __init__(self, depth: int = 3, name: str = "lake", render_mode: str | None = None):
            if depth > 10:
                raise ValueError("too deep")
            self.depth, self.tick = depth, 0

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.tick = 0
            return self.np_random.random(2).astype(np.float32), {}

        def step(self, action):
            self.tick += 1
            if self.depth == 9:
                raise ArithmeticError("drained")
            seen = np.zeros(3 if self.depth == 8 else 2, np.float32)
            return seen, float(self.depth), self.tick == self.depth, False, {}

    class Pool(gymnasium.Env):
        observation_space, action_space = Box(-1, 1, (2,)), Discrete(2)

    def lake(depth=3):
        return Lake(depth)

    class Forgets(Worlds):
        def __init__(self, *given):
            pass
        def spaces(self):
            return FloatSpace(size=1), DiscreteSpace(n=2)
        def start(self, worlds): ...
        def advance(self, action): ...

    class Sea(ParallelEnv):
        metadata = {"name": "sea"}

        def __init__(self, ships: int = 2):
            self.possible_agents = [f"ship-{n}" for n in range(ships)]

        def observation_space(self, agent):
            return Box(0, 1, (1,))

        def action_space(self, agent):
            return Discrete(2)

        def reset(self, seed=None, options=None):
            self.agents = list(self.possible_agents)
            return {a: np.zeros(1, np.float32) for a in self.agents}, {a: {} for a in self.agents}

        def step(self, actions):
            now = self.agents
            self.agents = []
            return ({a: np.ones(1, np.float32) for a in now}, {a: 1.0 for a in now}, {a: True for a in now},
                    {a: False for a in now}, {a: {} for a in now})
"""


def play(worlds: VectorWorlds, ticks: int, slots: slice = slice(None)) -> list[bytes]:
    """Return what slots see and come to in so many ticks, with actions that depend on the slot and the tick alone."""
    happened = []
    for tick in range(ticks):
        numbers = np.arange(worlds.num_slots)[slots]
        action = np.zeros(worlds.num_slots, np.int64)
        action[slots] = (np.arange(len(numbers)) * 7 + tick * 3) % worlds.spec.action_space.n
        worlds.step(action)
        arrays = (worlds.observation, worlds.reward, worlds.terminated, worlds.truncated, worlds.active)
        happened += [array[slots].tobytes() for array in arrays]
        ended = worlds.terminated | worlds.truncated
        happened += [np.where(ended[:, None], worlds.final_observation, 0)[slots].tobytes()]
    return happened


@pytest.mark.parametrize("environment", ["my_world:Pond", "pairs:Pairs", "others:Lake", "others:Sea"])
def test_a_world_of_a_seed_plays_the_same_in_any_batch(user_module: UserModule, environment: str) -> None:
    for name, source in {"my_world": EXAMPLE, "pairs": PAIRS, "others": OTHERS}.items():
        user_module(name, source)
    many = make_worlds(environment, {}, 9, 5)
    agents = many.spec.agents_per_world
    some = make_worlds(environment, {}, 3, 5, 4)
    assert isinstance(many, VectorWorlds)
    assert play(many, 45, slice(4 * agents, 7 * agents)) == play(some, 45)
    other = make_worlds(environment, {}, 3, 6, 4)
    some.reset(5)
    assert environment in ("others:Sea",) or play(other, 45) != play(some, 45)


@pytest.mark.parametrize("environment", ["my_world:Pond", "pairs:Pairs", "others:Lake"])
def test_worlds_go_on_exactly_where_they_were_stored(user_module: UserModule, environment: str) -> None:
    for name, source in {"my_world": EXAMPLE, "pairs": PAIRS, "others": OTHERS}.items():
        user_module(name, source)
    worlds = make_worlds(environment, {}, 4, 1)
    play(worlds, 7)
    stored = worlds.state()
    after = play(worlds, 30)
    again = make_worlds(environment, {}, 4, 1)
    play(again, 3)
    again.restore(stored)
    assert play(again, 30) == after
    assert not {array.dtype.name for array in stored.values()} - set(DTYPES)  # so that services can send it
    with pytest.raises(EnvError, match="do not fit"):
        make_worlds(environment, {}, 5, 1).restore(stored)
    with pytest.raises(EnvError):
        worlds.restore({})


def test_agents_that_have_ended_wait_for_the_others(user_module: UserModule) -> None:
    user_module("pairs", PAIRS)
    worlds = make_worlds("pairs:Pairs", {}, 200, 3)
    lengths = worlds.left.copy()  # type: ignore[attr-defined]
    ended = np.zeros(400, np.bool_)
    for tick in range(1, 5):
        worlds.step(np.ones(400, np.int64))
        now = worlds.terminated & (worlds.episode.repeat(2) <= 1)
        first = ~ended & now
        assert (lengths[first] == tick).all()
        assert (worlds.final_metrics["moves"][first] == tick).all()
        assert (worlds.final_observation[first] == [2, 1]).all()
        dead = ~worlds.active
        assert not worlds.observation[dead].any()
        ended |= now
    assert (worlds.episode >= 1).all()


def test_the_numbers_that_worlds_draw_are_even(user_module: UserModule) -> None:
    user_module("my_world", EXAMPLE)
    worlds = make_worlds("my_world:Pond", {}, 2000, 1)
    drawn = worlds.random(np.arange(2000), 50)  # type: ignore[attr-defined]
    assert drawn.shape == (2000, 50)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert abs(drawn.mean() - 0.5) < 0.005
    assert abs(drawn.std() - 12**-0.5) < 0.005
    assert len(np.unique(drawn)) == drawn.size


def test_settings_are_typed_and_named(user_module: UserModule) -> None:
    user_module("my_world", EXAMPLE)
    user_module("others", OTHERS)
    assert validate("my_world:Pond", {"size": 5}) == {"size": 5, "ticks": 20}
    assert validate("others:Lake", {"depth": 5}) == {"depth": 5}
    assert make_worlds("others:Lake", {"depth": 1}, 1, 0).spec.settings == {"depth": 1}
    assert make_worlds("others:Sea", {"ships": 3}, 2, 0).num_slots == 6
    settings = load_settings(None, ["env.id=my_world:Pond", "env.size=7"], {})
    assert settings.env.own_settings == {"size": 7, "ticks": 20}
    assert [one.name for one in settings.code] == ["my_world:Pond"]
    assert settings.experiment == "pond"


@pytest.mark.parametrize(
    ("environment", "settings", "said"),
    [
        ("my_world:Pond", {"sise": 3}, "bad settings of my_world:Pond: unknown key 'sise', did you mean 'size'?"),
        ("my_world:Pond", {"size": 1}, "bad settings of my_world:Pond: size: at least 2 is wanted, got 1"),
        ("others:Lake", {"dept": 3}, "bad settings of others:Lake: unknown key 'dept', did you mean 'depth'?"),
        ("others:Lake", {"depth": "deep"}, "others:Lake: depth: a whole number is wanted, such as 3, got 'deep'"),
        ("others:Lake", {"depth": 11}, "'others:Lake' cannot be made with depth=11: too deep"),
        ("others:Lake", {"depth": 9}, "'others:Lake', world 0: step raised ArithmeticError: drained"),
        ("others:Lake", {"depth": 8}, r"'others:Lake', world 0: step handed out an observation of shape (3,)"),
        (
            "others:Box",
            {},
            "'others:Box' is not an environment: an environment is a subclass of",
        ),
        (
            "others:lake",
            {},
            "'others:lake' is no class, but a function: an environment is a subclass of rattle.extend.Worlds",
        ),
        ("others:Pool", {}, "'others:Pool' cannot be used: it does not define reset, step"),
        ("others:Forgets", {}, "others:Forgets: __init__ does not call that of its base class"),
        ("others:Lakes", {}, "'others' has no class 'Lakes', did you mean 'Lake'?"),
        ("lost:Lake", {}, "cannot import 'lost', which should hold an environment, Lake"),
        ("pond", {}, "unknown environment 'pond'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    user_module: UserModule, environment: str, settings: dict[str, object], said: str
) -> None:
    user_module("my_world", EXAMPLE)
    user_module("others", OTHERS)
    with pytest.raises(RattleError) as error:
        make_worlds(environment, settings, 2, 0).step(np.zeros(2, np.int64))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "code", "said"),
    [
        ("spaces", "return 1, 2", "spaces returned something else than a space of observations and one of actions"),
        ("spaces", "return 1", "spaces raised TypeError"),
        ("allocate", "1 / 0", "allocate raised ZeroDivisionError: division by zero in broken.py, line 1"),
        ("start", "self.nothing", "start raised AttributeError"),
        ("advance", "raise SystemExit(1)", "advance raised SystemExit: 1 in broken.py, line "),
        (
            "advance",
            "self.observation = np.zeros((3, 3))",
            "observation float64 (3, 3), where float32 (4, 1) is",
        ),
        ("advance", "self.reward = ['a'] * 4", "reward <U1 (4,), where float32 (4,) is wanted"),
        ("advance", "self.terminated = np.ones(4)", "terminated float64 (4,), where bool (4,) is wanted"),
        ("advance", "self.observation[2] = np.nan", "advance returned the observation nan in slot 2, which is none of"),
        ("advance", "self.reward[3] = np.inf", "advance returned the reward inf in slot 3"),
        ("start", "self.observation[1] = np.inf", "start returned the observation inf in slot 1"),
    ],
)
def test_faults_of_vector_environments_name_the_method(
    user_module: UserModule, method: str, code: str, said: str
) -> None:
    bodies = {"spaces": "return FloatSpace(size=1), DiscreteSpace(n=2)", "allocate": "", "start": "", "advance": ""}
    bodies[method] = code
    methods = "".join(
        f"\n\n    def {name}(self{', ' + argument if argument else ''}):\n        pass\n        {bodies[name]}"
        for name, argument in {"spaces": "", "allocate": "", "start": "worlds", "advance": "action"}.items()
    )
    user_module("broken", f"from rattle.extend import *\nimport numpy as np\n\nclass Broken(Worlds):{methods}\n")
    with pytest.raises(RattleError) as error:
        make_worlds("broken:Broken", {}, 4, 0).step(np.zeros(4, np.int64))
    assert str(error.value).startswith("broken:Broken: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("metric_names = ('food')", """metric_names is 'food', and must be a tuple of names, such as ("food",)"""),
        ("metric_names = (3,)", "metric_names is (3,), and must be a tuple of names"),
        ("agents_per_world = 0", "agents_per_world is 0, and must be a whole number from 1 on"),
        ("class Settings(BaseModel):\n        worlds: int = 3", "Settings: 'worlds' is a setting of Rattle's own"),
    ],
)
def test_faults_of_what_a_class_says_of_itself(user_module: UserModule, attribute: str, said: str) -> None:
    source = f"""from pydantic import BaseModel
from rattle.extend import *
class Odd(Worlds):
    {attribute}
    def spaces(self):
        return FloatSpace(size=1), DiscreteSpace(n=2)
    def start(self, worlds): ...
    def advance(self, action): ...
"""
    (user_module("odd", "").parent / "odd.py").write_text(source)
    with pytest.raises(RattleError) as error:
        make_worlds("odd:Odd", load_settings(None, ["env.id=odd:Odd"], {}).env.own_settings, 2, 0)
    assert f"odd:Odd: {said}" in str(error.value)


def test_a_constructor_may_not_want_what_is_a_setting_of_rattles_own(user_module: UserModule) -> None:
    user_module(
        "greedy",
        """
        import gymnasium
        class Whole(gymnasium.Env):
            def reset(self, *, seed=None, options=None): ...
            def step(self, action): ...
        class Wants(Whole):
            def __init__(self, url, size: int = 3): ...
        class Offers(Whole):
            def __init__(self, url="x", size: int = 3): ...
        """,
    )
    with pytest.raises(RattleError, match="greedy:Wants: __init__: 'url' is a setting of Rattle's own"):
        load_settings(None, ["env.id=greedy:Wants"], {})
    assert load_settings(None, ["env.id=greedy:Offers", "env.size=4"], {}).env.own_settings == {"size": 4}


def test_what_a_snapshot_hands_out_is_made_plain_and_a_close_that_fails_harms_nothing(user_module: UserModule) -> None:
    user_module(
        "shown",
        """
        import numpy as np
        from rattle.extend import DiscreteSpace, FloatSpace, Worlds
        class Shown(Worlds):
            def spaces(self):
                return FloatSpace(size=1), DiscreteSpace(n=2)
            def start(self, worlds):
                pass
            def advance(self, action):
                pass
            def snapshot(self, world):
                return [{"at": np.arange(2), "far": np.float32(0.5)}, {"at": object()}, 3][world]
            def close(self):
                raise RuntimeError("the arm is stuck")
        """,
    )
    worlds = make_worlds("shown:Shown", {}, 3, 0)
    assert worlds.snapshot(0) == {"at": [0, 1], "far": 0.5}
    for world, said in ((1, "a object, which JSON does not have"), (2, "a int, where a dictionary is wanted")):
        with pytest.raises(EnvError, match=f"^shown:Shown: snapshot returned {said}"):
            worlds.snapshot(world)
    with pytest.warns(UserWarning, match="shown:Shown: close raised RuntimeError: the arm is stuck"):
        worlds.close()


def test_arrays_may_be_filled_or_put_in_place(user_module: UserModule) -> None:
    user_module(
        "placed",
        """
        import numpy as np
        from rattle.extend import DiscreteSpace, FloatSpace, Worlds
        class Placed(Worlds):
            ticks = 0
            def spaces(self):
                return FloatSpace(size=2), DiscreteSpace(n=2)
            def start(self, worlds):
                pass
            def advance(self, action):
                self.ticks += 1
                self.observation = np.stack([action, action], 1)
                self.reward = 2 * action
                self.truncated = np.full(self.num_slots, self.ticks % 3 == 0)
        """,
    )
    worlds = make_worlds("placed:Placed", {}, 3, 0)
    seen, reward = worlds.observation, worlds.reward
    worlds.step(np.array([0, 1, 1]))
    assert worlds.observation is seen
    assert worlds.reward is reward
    assert seen.tolist() == [[0, 0], [1, 1], [1, 1]]
    assert reward.tolist() == [0, 2, 2]
    stored = worlds.state()
    again = make_worlds("placed:Placed", {}, 3, 0)
    again.restore(stored)
    assert play(again, 5) == play(worlds, 5)  # the number `ticks` is a part of the state


def test_names_from_strangers_import_nothing(user_module: UserModule) -> None:
    user_module("my_world", EXAMPLE)
    for name in ("my_world:Pond", "os:path"):
        with pytest.raises((NotImported, UnknownEnvironment)):
            make_worlds(name, {}, 1, 0, allow_imports=False)
    make_worlds("my_world:Pond", {}, 1, 0)
    make_worlds("my_world:Pond", {"size": 3}, 1, 0, allow_imports=False).close()
