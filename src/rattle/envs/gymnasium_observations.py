"""What environments of Gymnasium and PettingZoo observe, as rows of the spaces in `rattle.samples.spaces`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.foreign import NUMBERS, WrongValue
from rattle.samples.spaces import (
    MOST_STATES,
    ActionSpace,
    ArraySpace,
    CodeSpace,
    DiscreteSpace,
    FloatSpace,
    MaskSpace,
    ObservationSpace,
    Part,
    PartsSpace,
)
from rattle.text import one_line

#: The key of an observation, and of infos, that says which actions are allowed.
MASK = "action_mask"
#: What an observation is called that is next to a mask from infos.
_ALONE = "observation"

_Row = CodeSpace | FloatSpace | ArraySpace | MaskSpace


@dataclass(frozen=True)
class _Leaf:
    """A part of what is observed that has no parts itself: where it is found, what it is, and what happens to it."""

    path: tuple[str | int, ...]
    given: Space[Any]
    space: _Row

    @property
    def name(self) -> str:
        """Return its keys, joined by dots."""
        return ".".join(map(str, self.path))

    @property
    def _called(self) -> str:
        return f"the observation's part '{self.name}'" if self.path else "the observation"

    def find(self, value: Any) -> Any:
        """Return this part of an observation; raises WrongValue where it is missing."""
        for key in self.path:
            is_there = key in value if isinstance(value, Mapping) else isinstance(value, tuple | list)
            if not is_there or (isinstance(key, int) and len(value) <= key):
                raise WrongValue(f"an observation without '{self.name}', which its space has")
            value = value[key]
        return value

    def rows(self, value: Any, lead: tuple[int, ...]) -> NDArray[Any]:
        """Return arrays (*lead, *row) of a value that Gymnasium's space has for each; raises WrongValue."""
        array, shape = np.asarray(value), (*lead, *(self.given.shape or ()))
        if array.shape != shape and array.size == _size(shape) == 1:
            array = array.reshape(shape)
        if array.shape != shape or array.dtype.kind not in NUMBERS:
            whose = f" for its part '{self.name}'" if self.path else ""
            found = f"an observation of shape {array.shape} and type {array.dtype}{whose}"
            raise WrongValue(f"{found}, but the space is {shape[len(lead) :]} {self.given.dtype}")
        if isinstance(self.space, MaskSpace):
            self._check(array, (array != 0) & (array != 1))
        elif not isinstance(self.given, Box):
            array = self._counted(array)
        elif self.space.dtype == np.uint8 and array.dtype != np.uint8:
            self._check(array, (array < 0) | (array > 255) | (array != np.floor(array)))
        return array.reshape(*lead, *self.space.shape)

    def _counted(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return whole numbers counted from 0."""
        if isinstance(self.given, MultiBinary):
            self._check(array, (array != 0) & (array != 1))
            return array
        assert isinstance(self.given, Discrete | MultiDiscrete)  # noqa: S101 - there are no other leaves
        codes = array - self.given.start
        most = self.given.n if isinstance(self.given, Discrete) else self.given.nvec
        self._check(array, (codes < 0) | (codes >= most) | (codes != np.floor(codes)))
        return codes

    def _check(self, array: NDArray[Any], wrong: Any) -> None:
        if np.any(wrong):
            value = array[wrong][0]
            raise WrongValue(f"{self._called} {value:g}, but the space is {one_line(self.given, 100)}")


class Observer:
    """Makes rows of what an environment observes, of any of Gymnasium's spaces that has a fixed size.

    Box, Discrete, MultiDiscrete and MultiBinary become an array, numbers or codes; Dict and Tuple become parts, whose
    names are their keys. A mask of discrete actions, in a Dict under "action_mask" or in infos, becomes a mask.
    """

    space: ObservationSpace

    def __init__(
        self, name: str, given: Any, actions: ActionSpace | None, info: Mapping[str, Any] | None = None
    ) -> None:
        """`info` are those of a first reset: a mask in them is taken for one that is always there.

        Raises EnvError, which names the environment and what would help, for spaces without a fixed size, and masks
        that are not of these actions.
        """
        self._name, self._given = name, given
        number = actions.n if isinstance(actions, DiscreteSpace) else None
        self._leaves = tuple(self._leaves_of(given, (), number))
        masks = [leaf for leaf in self._leaves if isinstance(leaf.space, MaskSpace)]
        looks = number is not None and not masks
        shown = _shown(info) if looks else None
        if number is not None and shown is not None and not _is_mask(shown, number):
            raise EnvError(
                f"'{name}' has an '{MASK}' in its infos that {_is_none(number)}: {one_line(repr(shown), 80)}"
            )
        self._mask_in_info = shown is not None
        #: Whether a mask in infos would be one that the first ones had not.
        self._has_none = looks and shown is None
        parts = [Part(name=leaf.name or _ALONE, space=leaf.space) for leaf in self._leaves]
        if self._mask_in_info and number is not None:
            parts.append(Part(name=_unused(MASK, parts), space=MaskSpace(size=number)))
        if len(parts) == len(masks):
            raise EnvError(f"'{name}' observes a mask of actions alone: there is nothing to decide by")
        self._mask: slice | None = None
        #: The shape of what is handed out as it comes, in most environments.
        self._as_it_comes: tuple[int, ...] | None = None
        if len(parts) == 1 and not isinstance(only := parts[0].space, MaskSpace):
            self.space = only
            if isinstance(given, Box):
                self._as_it_comes = only.shape
            return
        try:
            self.space = space = PartsSpace(parts=tuple(parts))
        except ValueError as error:
            raise EnvError(f"'{name}' observes {one_line(given, 300)}: {one_line(error, 200)}") from None
        if space.mask is not None:
            self._mask = space.columns[space.mask.name]

    def row(self, value: Any, info: Any = None, *, acts: bool = False) -> NDArray[Any]:
        """Return an observation as a row of `space`; raises WrongValue.

        `info` holds the mask, where that is there. An agent that `acts` on the observation must be allowed something;
        one whose episode is over needs no mask.
        """
        self._check_none(info)
        if self._as_it_comes is not None:
            array = np.asarray(value)
            is_taken = array.dtype == np.uint8 or (self.space.dtype.kind == "f" and array.dtype.kind in NUMBERS)
            if is_taken and array.shape == self._as_it_comes:
                return array
        if not acts and self._mask is not None and self._mask_in_info and _shown(info) is None:
            info = {MASK: np.zeros(self._mask.stop - self._mask.start, np.int8)}
        row = self._rows(value, info, ())
        if acts:
            self.check_mask(row)
        return row

    def rows(self, values: Any, number: int, infos: Any = None) -> NDArray[Any]:
        """Return the observations of a batch, laid out as Gymnasium's vector environments do, as rows of `space`."""
        self._check_none(infos)
        return self._rows(values, infos, (number,))

    def check_mask(self, rows: NDArray[Any]) -> None:
        """Raise WrongValue where the mask of an agent that is to act allows nothing; `rows` are one (n,), or many."""
        if self._mask is not None and not rows[..., self._mask].any(axis=-1).all():
            raise WrongValue(f"an '{MASK}' that allows no action, though the episode continues")

    def _check_none(self, info: Any) -> None:
        if info and self._has_none and _shown(info) is not None:
            raise WrongValue(f"infos with an '{MASK}', which the first ones had not: it must be there always, or never")

    def _rows(self, value: Any, info: Any, lead: tuple[int, ...]) -> NDArray[Any]:
        if not isinstance(self.space, PartsSpace):
            [leaf] = self._leaves
            return leaf.rows(leaf.find(value), lead)
        parts = [leaf.rows(leaf.find(value), lead).reshape(*lead, -1) for leaf in self._leaves]
        if self._mask_in_info and self._mask is not None:
            parts.append(_mask_of(info, self._mask.stop - self._mask.start, lead))
        return np.concatenate(parts, axis=-1, dtype=self.space.dtype, casting="unsafe")

    def _leaves_of(self, given: Any, path: tuple[str | int, ...], number: int | None) -> Iterator[_Leaf]:
        if isinstance(given, Dict | Tuple):
            inner = given.spaces.items() if isinstance(given, Dict) else enumerate(given.spaces)
            for key, part in inner:
                yield from self._leaves_of(part, (*path, key), number)
        elif path == (MASK,) and number is not None and _holds_bits(given):
            if given.shape != (number,):
                what = f"'{self._name}' observes an '{MASK}' that {_is_none(number)}"
                raise EnvError(f"{what}: {one_line(given, 100)}")
            yield _Leaf(path, given, MaskSpace(size=number))
        else:
            yield _Leaf(path, given, self._row_of(given, path))

    def _row_of(self, given: Any, path: tuple[str | int, ...]) -> _Row:
        """Return the space of a leaf's rows; raises EnvError."""
        if isinstance(given, Discrete) and given.n <= MOST_STATES:
            return CodeSpace(cells=1, codes=max(2, int(given.n)))
        if isinstance(given, MultiDiscrete) and given.nvec.size and given.nvec.max() <= MOST_STATES:
            return CodeSpace(cells=given.nvec.size, codes=max(2, int(given.nvec.max())))
        if isinstance(given, MultiBinary) and _size(given.shape):
            return CodeSpace(cells=_size(given.shape), codes=2)
        if isinstance(given, Box) and _size(given.shape):
            if len(given.shape) <= 1:
                return FloatSpace(size=_size(given.shape))
            try:
                return ArraySpace(sizes=given.shape, element="uint8" if given.dtype == np.uint8 else "float32")
            except ValueError as error:
                raise EnvError(f"'{self._name}' observes {one_line(given, 300)}: {one_line(error, 200)}") from None
        raise EnvError(self._refusal(given, path))

    def _refusal(self, given: Any, path: tuple[str | int, ...]) -> str:
        what = re.sub(r" at 0x\w+", "", one_line(given, 300))  # where a function lies tells nobody anything
        if not isinstance(given, Space):
            return f"'{self._name}' observes {what}: its observation_space must be one of gymnasium.spaces"
        if isinstance(given, Discrete | MultiDiscrete):
            return f"'{self._name}' observes {what}: a number has at most {MOST_STATES} values, so encode it otherwise"
        reason = "no numbers at all" if given.shape is not None and 0 in given.shape else "no fixed number of numbers"
        part = f" as its part '{'.'.join(map(str, path))}'" if path else ""
        return f"'{self._name}' observes {what}{part}, which has {reason}: {self._way_out(path)}"

    def _way_out(self, path: tuple[str | int, ...]) -> str:
        """Return what makes rows of observations of which the part at `path` cannot be one."""
        others = []
        for key, part in self._given.spaces.items() if isinstance(self._given, Dict) else ():
            if key not in (*path[:1], MASK):
                try:
                    Observer(self._name, part, None)
                    others.append(key)
                except EnvError:
                    continue
        if others and not self._name.startswith("pettingzoo:"):
            keys = ", ".join(others)
            return f"leave it out, with --set 'env.wrappers=[{{use: FilterObservation, filter_keys: [{keys}]}}]'"
        return "wrap the environment in one that makes a Box of it, always of the same shape"


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _holds_bits(given: Space[Any]) -> bool:
    """Whether a space holds numbers from 0 to 1 alone."""
    return isinstance(given, MultiBinary) or (
        isinstance(given, Box) and bool((given.low == 0).all() and (given.high == 1).all())
    )


def _shown(info: Any) -> Any:
    """Return the mask in infos; None where there is none."""
    return info.get(MASK) if isinstance(info, Mapping) else None


def _is_none(number: int) -> str:
    """Say of a mask that it is not one."""
    return f"is not {number} zeros and ones, one for each action"


def _is_mask(value: Any, number: int) -> bool:
    """Whether a value from infos says of each action whether it is allowed."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return False
    fits = array.shape[-1:] == (number,) and array.dtype.kind in NUMBERS
    return fits and bool(((array == 0) | (array == 1)).all())


def _mask_of(info: Any, size: int, lead: tuple[int, ...]) -> NDArray[Any]:
    """Return the mask in infos, (*lead, size); raises WrongValue where there is none."""
    found = _shown(info)
    if found is None:
        raise WrongValue(f"infos without an '{MASK}', which the first ones had: it must be there always, or never")
    if not _is_mask(found, size) or np.shape(found) != (*lead, size):
        raise WrongValue(f"infos with an '{MASK}' that {_is_none(size)}: {one_line(repr(found), 80)}")
    return np.asarray(found)


def _unused(name: str, parts: list[Part]) -> str:
    while any(part.name == name for part in parts):
        name += "_"
    return name
