"""A graph as ONNX Runtime runs it: in blocks of a few fixed sizes, so that a row's result depends on no other.

Matrix libraries choose how they compute by the number of rows, and a row may round differently in another batch. In a
block of always the same size it cannot, as long as its place in the block does not matter. When a graph is loaded, rows
are tried at all places of blocks of all sizes; only sizes that give the same bits everywhere are used. Where a place
matters even in one size, rows are computed one by one, which is exact and slow. Networks that do much with each row,
such as convolutions of images, have small blocks: they gain nothing from large ones, and are tried in little time.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.policies.errors import PolicyError
from rattle.policies.graph.spec import LIGHT, GraphSpec
from rattle.policies.kind import Parameters
from rattle.policies.sampling import ForwardProgram
from rattle.text import one_line

#: Rows of a block: many for efficient matrix products, few for small batches. The first decides what is right, and how
#: many rows are tried at each place.
BLOCKS = (64, 256, 16)
#: The same where a row takes much. Libraries compute a single row in a way of its own.
HEAVY_BLOCKS = (16, 4, 2)
#: A reference to a file next to the model, as it is in the bytes of a model: none is ever followed. Protocol buffers
#: read the length before the word in longer forms too.
_EXTERNAL = re.compile(rb"(\x08|\x88\x80*\x00)location")


class GraphProgram(ForwardProgram):
    """A forward pass that releases the interpreter lock."""

    _spec: GraphSpec

    def __init__(self, spec: GraphSpec, parameters: Parameters) -> None:
        self._spec = spec
        self._session, self._blocks = _session(spec)
        self.load(parameters)

    def load(self, parameters: Parameters) -> None:
        """Swap in new weights."""
        used = {value.name for value in self._session.get_inputs()}
        self._parameters = {name: np.ascontiguousarray(array) for name, array in parameters.items() if name in used}

    def forward(
        self,
        observation: NDArray[Any],
        state: NDArray[np.float32] | None = None,
        own: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the head's outputs (N, outputs) and the values (N,)."""
        outputs, value, after = self._run(observation, state)
        if state is not None:
            state[:] = after
        return outputs, value

    def values(
        self,
        observation: NDArray[Any],
        state: NDArray[np.float32] | None = None,
        own: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return the values (N,)."""
        return self._run(observation, state)[1]

    def _run(
        self, observation: NDArray[Any], state: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        rows, parameters = len(observation), self._parameters
        if state is None:
            state = np.zeros((rows, self._spec.state_size), np.float32)
        outputs = np.empty((rows, self._spec.action.outputs), np.float32)
        value, after = np.empty(rows, np.float32), np.empty_like(state)
        start = 0
        while start < rows:
            size = next((size for size in self._blocks if size <= rows - start), self._blocks[-1])
            here = slice(start, min(start + size, rows))
            given = _inputs(self._spec, observation[here], state[here], size)
            found = _call(self._session, self._spec, {**given, **parameters})
            for target, block in zip((outputs, value, after), found, strict=False):
                target[here] = block[: here.stop - start]
            start = here.stop
        if not self._spec.value_head:
            value[:] = 0.0
        return outputs, value, after


def _inputs(
    spec: GraphSpec, observation: NDArray[Any], state: NDArray[np.float32], rows: int
) -> dict[str, NDArray[Any]]:
    """Return the inputs of one block; rows of zeros follow on fewer rows than it has."""
    given = {"observation": observation, "state": state} if spec.state_size else {"observation": observation}
    if len(observation) == rows:
        return given
    padded = {name: np.zeros((rows, *array.shape[1:]), array.dtype) for name, array in given.items()}
    for name, array in given.items():
        padded[name][: len(array)] = array
    return padded


def _call(session: Any, spec: GraphSpec, given: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    names = ["outputs", "value", *(["next_state"] if spec.state_size else [])]
    try:
        found: list[NDArray[np.float32]] = session.run(names, given)
    except Exception as error:  # the runtime has no class for all of its own
        raise PolicyError(f"the policy's graph cannot be run: {one_line(error, 200)}") from None
    rows = len(given["observation"])
    wanted = [(rows, spec.action.outputs), (rows,), (rows, spec.state_size)]
    for name, array, shape in zip(names, found, wanted, strict=False):
        if array.shape != shape or array.dtype != np.float32:
            raise PolicyError(f"the policy's graph gives {name} as {array.dtype} {array.shape}, not float32 {shape}")
    return found


@lru_cache(maxsize=16)
def _loaded(graph: bytes) -> Any:
    """Return a session of one thread for a graph."""
    try:
        import onnxruntime
    except ImportError:
        raise PolicyError(
            "this policy has a network of a user, which acts in ONNX Runtime: pip install 'rattle[onnx]'"
        ) from None
    if _EXTERNAL.search(graph):
        raise PolicyError("the policy's graph refers to another file, which is never read")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has no class for all of its own
        raise PolicyError(f"the policy's graph is refused by ONNX Runtime: {one_line(error, 200)}") from None


def _session(spec: GraphSpec) -> tuple[Any, tuple[int, ...]]:
    """Return the session of a graph, and how many rows it may compute together, the most first."""
    session = _loaded(spec.graph)
    given = {value.name for value in session.get_inputs()}
    wanted = {"observation", *dict(spec.parameters), *(["state"] if spec.state_size else [])}
    if unknown := given - wanted:
        raise PolicyError(f"the policy's graph takes {', '.join(sorted(unknown))}, which its spec does not describe")
    return session, _exact_blocks(spec)


@lru_cache(maxsize=16)
def _exact_blocks(spec: GraphSpec) -> tuple[int, ...]:
    """Return the sizes of blocks in which a row has the same result at every place, next to whatever rows."""
    blocks = BLOCKS if spec.row_work <= LIGHT else HEAVY_BLOCKS
    session, random, most = _loaded(spec.graph), np.random.default_rng(0), 2 * max(blocks)
    names = {value.name for value in session.get_inputs()}
    parameters = {
        name: (random.normal(size=shape) / np.sqrt(max(1, shape[-1] if shape else 1))).astype(np.float32)
        for name, shape in spec.parameters
        if name in names
    }
    observation = spec.observation.draw(random, most)
    state = random.normal(size=(most, spec.state_size)).astype(np.float32)

    def run(rows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        return _call(session, spec, {**_inputs(spec, observation[rows], state[rows], len(rows)), **parameters})

    parts = [run(rows) for rows in np.split(np.arange(most), most // blocks[0])]
    expected = [np.concatenate(each) for each in zip(*parts, strict=True)]

    def is_exact(size: int) -> bool:
        for shift in range(blocks[0]):
            rows = np.roll(np.arange(most), shift)[:size]
            if not all(np.array_equal(found, own[rows]) for found, own in zip(run(rows), expected, strict=True)):
                return False
        return True

    return tuple(sorted(filter(is_exact, blocks), reverse=True)) if is_exact(blocks[0]) else (1,)
