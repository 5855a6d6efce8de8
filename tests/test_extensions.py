"""Classes of users: named, found, checked and hashed, and what is said of those that are not there."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from pydantic import BaseModel

from rattle.envs.errors import EnvError
from rattle.envs.validation import settings_of
from rattle.errors import RattleError
from rattle.extensions import ALGORITHM, HOOK, Extension, ExtensionError, Kind, load, said, what
from rattle.own_source import source_hash
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]


class Tool(ABC):
    """What users are to write subclasses of."""

    @abstractmethod
    def work(self) -> int:
        """Do something."""

    def repeat(self, function: Callable[[], object]) -> None:
        """Call a function twice."""
        function(), function()


TOOL = Kind("tool", "a")
SAW = """
    from pydantic import BaseModel, field_validator
    from tests.test_extensions import Tool

    class Settings(BaseModel):
        teeth: int = 40
        sharp: bool = True

        @field_validator("teeth")
        @classmethod
        def _not_13(cls, teeth):
            if teeth == 13:
                raise RuntimeError("unlucky")
            return teeth

    class Saw(Tool):
        Settings = Settings

        def work(self):
            return 1 // 0

    class Blunt(Tool):
        pass

    class Stone: ...

    def saw(): ...
"""


def test_a_class_is_found_in_the_current_folder_and_hashed(user_module: UserModule) -> None:
    path = user_module("my_tools", SAW)
    saw = load("my_tools:Saw", TOOL, Tool)
    assert issubclass(saw.cls, Tool)
    assert (saw.name, saw.path) == ("my_tools:Saw", "my_tools:Saw")
    assert saw.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert saw.version is None


def test_the_hash_is_of_the_source_that_was_imported(user_module: UserModule) -> None:
    path = user_module("my_tools", SAW)
    saw = load("my_tools:Saw", TOOL, Tool)
    before = saw.sha256
    path.write_text("class Saw: ...")
    assert load("my_tools:Saw", TOOL, Tool).sha256 == before


def test_a_class_of_a_package_is_hashed_by_the_file_that_defines_it(user_module: UserModule) -> None:
    user_module("my_package/__init__", "from my_package.saws import Saw")
    user_module("my_package/saws", SAW)
    saw = load("my_package:Saw", TOOL, Tool)
    assert saw.path == "my_package.saws:Saw"


#: Each is imported by the one before, in another way; the last is imported by none.
OWN = {
    "my_package/__init__": "from . import wood",
    "my_package/saws": "import math\nfrom .wood.oak import Grain\n" + dedent(SAW),
    "my_package/wood/__init__": "",
    "my_package/wood/oak": "def grow():\n    from .. import earth\n\nclass Grain: ...",
    "my_package/earth": "import my_water",
    "my_water": "if True:\n    from my_springs.deep import well",
    "my_springs/deep": "well = 'deep'",
    "my_package/hammers": "import math",
}


@pytest.mark.parametrize("changed", OWN)
def test_the_hash_covers_own_modules_that_are_imported_wherever_that_is(user_module: UserModule, changed: str) -> None:
    paths = {name: user_module(name, "") for name in OWN}
    for name, source in OWN.items():
        paths[name].write_text(source)
    before = source_hash("my_package.saws", paths["my_package/saws"])
    paths[changed].write_text(f"{OWN[changed]}\n# another line")
    is_used = changed != "my_package/hammers"
    assert (source_hash("my_package.saws", paths["my_package/saws"]) != before) is is_used


def test_the_hash_covers_no_packages_of_others(tmp_path: Path) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    for name, source in (("mine.py", "import theirs"), ("theirs.py", "")):
        (folder / name).write_text(source)
    before = source_hash("mine", folder / "mine.py")
    assert before == hashlib.sha256((folder / "mine.py").read_bytes()).hexdigest()
    (folder / "theirs.py").write_text("changed = True")
    assert source_hash("mine", folder / "mine.py") == before


def test_a_module_may_import_its_neighbours_later(user_module: UserModule) -> None:
    user_module("my_neighbour", "answer = 42")
    user_module(
        "my_tools",
        """
        from tests.test_extensions import Tool
        class Saw(Tool):
            def work(self):
                import my_neighbour
                return my_neighbour.answer
        """,
    )
    assert load("my_tools:Saw", TOOL, Tool).cls().work() == 42


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_tools:Sow", "'my_tools' has no class 'Sow', did you mean 'Saw'?"),
        ("my_tools:Stone", "'my_tools:Stone' is not a tool: a tool is a subclass of tests.Tool"),
        ("my_tools:Tool", "'my_tools:Tool' is not a tool"),
        ("my_tools:saw", "'my_tools:saw' is no class, but a function: a tool is a subclass of tests.Tool"),
        ("my_tools:Blunt", "'my_tools:Blunt' cannot be used: it does not define work"),
        (
            "no_tools:Saw",
            "cannot import 'no_tools', which should hold a tool, Saw (No module named 'no_tools'): install",
        ),
        ("broken:Saw", "cannot import 'broken', which should hold a tool, Saw (ZeroDivisionError: division by zero in"),
        ("broken:Saw", " in broken.py, line 2)"),
        ("leaves:Saw", "cannot import 'leaves', which should hold a tool, Saw (SystemExit: 3 in leaves.py, line 2)"),
        ("unfit:Saw", " in unfit.py, line 2)"),
        ("wishes:Saw", "(ImportError: cannot import name 'Sew' from 'my_tools'"),
        ("wishes:Saw", " in wishes.py, line 1)"),
        ("lacks:Saw", "(No module named 'not_here' in lacks.py, line 1): install the package that has it"),
        (
            "wrong_settings:Saw",
            "(ValidationError: teeth: Input should be a valid integer in wrong_settings.py, line 4)",
        ),
        ("garbled:Saw", "(SyntaxError: invalid syntax (garbled.py, line 1))"),
        ("my_tools:", "'my_tools:' names no class: write it as module:Class"),
        (":Saw", "names no class"),
        ("..my_tools:Saw", "cannot import '..my_tools'"),
        ("my_tools:Saw:2", "names no class"),
        ("my_tools.py:Saw", "names a file: write the module as it is imported, without .py"),
        ("string:Saw", "so call your own file something else"),
        ("my_tools:Saw()", "names no class"),
        ("saw", "there is no tool 'saw'. A class of your own is named module:Class"),
        ("hammr", "there is no tool 'hammr', did you mean 'hammer'?"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(user_module: UserModule, name: str, said: str) -> None:
    user_module("my_tools", SAW)
    user_module("broken", "\n1 / 0\n")
    user_module("leaves", "\nraise SystemExit(3)\n")
    user_module("garbled", "class Saw(:")
    user_module("unfit", "\nint(1, 2, 3)\n")
    user_module("wishes", "from my_tools import Sew\n")
    user_module("lacks", "import not_here\n")
    user_module(
        "wrong_settings", "from pydantic import BaseModel\nclass Made(BaseModel):\n    teeth: int\nMade(teeth=None)\n"
    )
    user_module("string", SAW)
    with pytest.raises(ExtensionError) as error:
        load(name, TOOL, Tool, ["hammer"] if name == "hammr" else [])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def _install(folder: Path, name: str, entries: str) -> None:
    (folder / f"{name}-1.2.dist-info").mkdir()
    (folder / f"{name}-1.2.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (folder / f"{name}-1.2.dist-info" / "entry_points.txt").write_text(entries)
    (folder / f"{name}-1.2.dist-info" / "top_level.txt").write_text("my_tools\n")


def test_short_names_are_entry_points(user_module: UserModule, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = user_module("my_tools", SAW).parent
    _install(folder, "tools", "[rattle.tools]\nsaw = my_tools:Saw\n[rattle.hooks]\nsaw = my_tools:Hook\n")
    monkeypatch.syspath_prepend(folder)
    saw = load("saw", TOOL, Tool)
    assert (saw.name, saw.path, saw.version) == ("saw", "my_tools:Saw", "1.2")
    with pytest.raises(ExtensionError, match="there is no tool 'sow', did you mean 'saw'"):
        load("sow", TOOL, Tool)
    _install(folder, "others", "[rattle.tools]\nsaw = my_tools:Blunt\n")
    with pytest.raises(ExtensionError, match="is the name of my_tools:Blunt and of my_tools:Saw"):
        load("saw", TOOL, Tool)


def test_what_a_method_raises_names_it(user_module: UserModule) -> None:
    user_module("my_tools", SAW)
    saw = load("my_tools:Saw", TOOL, Tool)
    with (
        pytest.raises(ExtensionError, match=r"^my_tools:Saw: work raised ZeroDivisionError: .* in my_tools.py, line 2"),
        saw.calling("work"),
    ):
        saw.cls().work()
    with pytest.raises(EnvError, match="of its own"), saw.calling("work"):
        raise EnvError("of its own")


@pytest.mark.parametrize(("called", "named"), [("mark", "mark"), ("_mark", "work")])
@pytest.mark.parametrize("name", ["my_tools:Saw", "mine:Mine"])
def test_a_method_that_is_handed_to_others_is_named_unless_it_is_private(
    user_module: UserModule, name: str, called: str, named: str
) -> None:
    user_module("mine", "import my_tools\nclass Mine(my_tools.Saw): ...")
    user_module("my_wood", "def split():\n    return 1 // 0")
    user_module(
        "my_tools",
        f"""
        from tests.test_extensions import Tool
        from my_wood import split
        class Saw(Tool):
            def work(self):
                return self.repeat(self.{called})
            def {called}(self):
                return self.cut()
            def cut(self):
                return split()
        """,
    )
    saw = load(name, TOOL, Tool)
    with pytest.raises(ExtensionError) as error, saw.calling("work"):
        saw.cls().work()
    assert f"{name}: {named} raised ZeroDivisionError" in str(error.value)
    assert str(error.value).endswith(" in my_wood.py, line 2")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"teth": 3}, "bad settings of my_tools:Saw: unknown key 'teth', did you mean 'teeth'?"),
        ({"teeth": "many"}, "teeth: a whole number is wanted, such as 40, got 'many'"),
        ({"teeth": True}, "teeth: a whole number is wanted, such as 40, got 'true'"),
        ({"teeth": 13}, "my_tools:Saw: Settings raised RuntimeError: unlucky in my_tools.py"),
    ],
)
def test_settings_are_validated(user_module: UserModule, values: dict[str, Any], said: str) -> None:
    user_module("my_tools", SAW)
    saw = load("my_tools:Saw", TOOL, Tool)
    with pytest.raises(RattleError) as error:
        settings_of(saw, values)
    assert said in str(error.value)
    assert settings_of(saw, {"teeth": 3}).model_dump() == {"teeth": 3, "sharp": True}
    assert isinstance(settings_of(saw, {}), saw.cls.Settings)  # type: ignore[attr-defined]


def test_an_error_that_cannot_be_said_is_named() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyError("no words")

    assert (what(Mute()), said(Mute())) == ("Mute", "Mute")


def test_settings_that_are_none() -> None:
    class Wrong(Tool):
        Settings = 3

        def work(self) -> int:
            return 0

    class Open(Tool):
        class Settings(BaseModel, extra="allow"):
            """Any key."""

        def work(self) -> int:
            return 0

    with pytest.raises(ExtensionError, match="Settings must be a class of settings"):
        settings_of(Extension("x", Wrong), {})
    assert settings_of(Extension("x", Open), {"a": 1}).model_dump() == {"a": 1}


def test_groups_are_called_after_what_is_extended() -> None:
    assert (ALGORITHM.group, HOOK.group) == ("rattle.algorithms", "rattle.hooks")
