"""The base class of users' networks, and how one becomes a graph that acts without their code."""

from __future__ import annotations

import io
import warnings
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from rattle.analytics.extras import require
from rattle.envs.validation import StrictSettings
from rattle.extensions import Extension, ExtensionError, WrongResult
from rattle.policies.errors import PolicyError
from rattle.policies.graph.spec import GraphSpec
from rattle.samples.spaces import ActionSpace, ObservationSpace, PartsSpace

_OPSET, _IR_VERSION = 17, 8
#: Rows on which graph and network are compared: more than a block, and no whole number of blocks.
_ROWS_TRIED = 81
_TICKS_TRIED = 3
#: So many of them are tried one by one too: a branch may depend on all rows together.
_ROWS_ALONE = 8
_TOLERANCE = 1e-4
#: How far weights are moved, so that no two of them are alike while a graph is made of them, and tried.
_MOVED = 0.01
#: The logit of an action that is forbidden: its probability is 0, and its logarithm is a finite number.
_FORBIDDEN = -1e9


class Spaces(NamedTuple):
    """What a network observes and decides."""

    observation: ObservationSpace
    action: ActionSpace


class Network(nn.Module, ABC):
    """A network of a user's: a PyTorch module that says what it makes of an observation in one tick.

    Its weights must be parameters, float32. It computes as in evaluation (`eval()`), when it learns too, since what
    acts and what learns must agree: no dropout, and no batch statistics.
    """

    #: The network's settings, which are in the section `policy`.
    Settings: ClassVar[type[BaseModel]] = StrictSettings
    #: How many numbers it remembers from one tick to the next; 0: it has no memory. Set it in the constructor.
    state_size: int = 0

    def __init__(self, spaces: Spaces, settings: Any) -> None:
        """Make layers; weights may be drawn by PyTorch as usual: its generator is seeded by the experiment."""
        super().__init__()
        self.spaces = spaces
        self.settings = settings

    def encode(self, observation: Tensor) -> Tensor:
        """Return observations (N, ...) as float32 inputs (N, inputs), codes one-hot."""
        return self.spaces.observation.encode(observation)

    @abstractmethod
    def step(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs (N, spaces.action.outputs), values (N,) and the next state (N, state_size), all float32.

        observation: (N, ...) of the observation space; state: (N, state_size), zeros where an episode begins. A row's
        results may depend on that row only.
        """

    def sequence(self, observation: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs (T, N, outputs) and values (T, N) for T ticks; override it with something quicker.

        starts: bool (T, N), where an episode begins: its state is zero. What it returns must be what `step` returns.
        """
        outputs, values = [], []
        for tick in range(observation.shape[0]):
            state = state * (~starts[tick]).unsqueeze(1)
            found, value, state = self.step(observation[tick], state)
            outputs.append(found)
            values.append(value)
        return torch.stack(outputs), torch.stack(values)

    def follow(self, observation: Tensor) -> None:
        """Take note of observations (N, ...) of a rollout before it is learnt from: buffers may change, such as scales.

        It does nothing by default. Buffers are stored and published with the weights.
        """


class LearningNetwork(nn.Module):
    """A user's network as the learner takes it; what the user's code raises or returns wrong names that code."""

    def __init__(self, extension: Extension[Network], network: Network) -> None:
        super().__init__()
        self.own = network
        self.value_scale: Tensor
        self.register_buffer("value_scale", torch.ones(1))
        self._extension = extension
        self.eval()

    @property
    def state_size(self) -> int:
        """Return how many numbers the network remembers."""
        return self.own.state_size

    def train(self, mode: bool = True) -> LearningNetwork:
        """Stay as in evaluation: what learns must compute what acts."""
        return super().train(False)

    def forward(self, observation: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return outputs and values of one tick, and the next state where one was given."""
        given = observation.new_zeros((len(observation), 0), dtype=torch.float32) if state is None else state
        with self._extension.calling("step"):
            outputs, value, after = self._checked(self.own.step(observation, given), observation)
        outputs, value = self._allowed(outputs, observation), value * self.value_scale
        return (outputs, value) if state is None else (outputs, value, after)

    def sequence(self, observation: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs (T, N, outputs) and values (T, N)."""
        with self._extension.calling("sequence"):
            found = self.own.sequence(observation, state, starts)
            shape = tuple(starts.shape)
            if not isinstance(found, tuple) or len(found) != 2:
                raise WrongResult("something other than outputs and values")
            outputs, value = found
            _check("the outputs", outputs, (*shape, self.own.spaces.action.outputs), observation.device)
            _check("the values", value, shape, observation.device)
            _check_finite(outputs, value)
        return self._allowed(outputs, observation), value * self.value_scale

    def follow(self, observation: Tensor) -> None:
        """Show the network the observations (N, ...) of a rollout, before it learns from them."""
        if type(self.own).follow is not Network.follow:
            with torch.no_grad(), self._extension.calling("follow"):
                self.own.follow(observation)

    def _allowed(self, outputs: Tensor, observation: Tensor) -> Tensor:
        """Return outputs (..., outputs) of which none leads to an action that the mask of its observation forbids."""
        space = self.own.spaces.observation
        if not isinstance(space, PartsSpace) or space.mask is None:
            return outputs
        forbidden = space.forbidden(observation.reshape(-1, *space.shape))
        return outputs.masked_fill(forbidden.reshape(outputs.shape), _FORBIDDEN)

    def _checked(self, found: Any, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not isinstance(found, tuple) or len(found) != 3:
            raise WrongResult("something other than outputs, values and the next state")
        outputs, value, state = found
        rows, device = len(observation), observation.device
        _check("the outputs", outputs, (rows, self.own.spaces.action.outputs), device)
        _check("the values", value, (rows,), device)
        _check("the next state", state, (rows, self.own.state_size), device)
        _check_finite(outputs, value, state)
        return outputs, value, state


class _OneTick(nn.Module):
    """What is exported: a function of everything that changes, so that the graph holds no weights."""

    def __init__(self, network: LearningNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return self.network(observation, *state)  # type: ignore[no-any-return]


def make(extension: Extension[Network], spaces: Spaces, settings: Any, seed: int) -> LearningNetwork:
    """Return a new network whose weights are drawn from a seed; raises ExtensionError for what is wrong with it.

    It is made in one thread: some ways to draw weights round differently with the number of threads.
    """
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as alone:
        return alone.submit(_make, extension, spaces, settings, seed).result()


def _make(extension: Extension[Network], spaces: Spaces, settings: Any, seed: int) -> LearningNetwork:
    with torch.random.fork_rng(devices=[]), extension.calling("__init__"):
        torch.manual_seed(seed % 2**63)
        network = extension.cls(spaces, settings)
        if not isinstance(network.state_size, int) or network.state_size < 0:
            raise WrongResult(f"{network.state_size!r} as state_size, where a whole number is wanted")
        for name, tensor in network.state_dict().items():
            if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
                advice = "persistent=False makes a buffer a constant"
                if name.endswith("num_batches_tracked"):
                    advice = "BatchNorm takes statistics of batches, LayerNorm takes none"
                raise WrongResult(
                    f"a network with {name} as {tensor.dtype} on {tensor.device}, not float32 on cpu: {advice}"
                )
        if not any(True for _ in network.parameters()):
            raise WrongResult("a network without parameters: there is nothing to learn")
    made = LearningNetwork(extension, network)
    _try_out(made, spaces)
    return made


def describe(network: LearningNetwork, spaces: Spaces, *, value_head: bool) -> GraphSpec:
    """Return the spec of a network, with the graph that computes what it computes.

    Raises ExtensionError where it does not: tracing sees no branches of Python, and takes sizes for constants.
    """
    for module in ("onnx", "onnxruntime"):
        require(module, "onnx", "a network of your own")
    parameters = tuple((name, tuple(tensor.shape)) for name, tensor in network.state_dict().items())
    with _no_weights_alike(network):
        spec = GraphSpec(
            observation=spaces.observation,
            action=spaces.action,
            value_head=value_head,
            parameters=parameters,
            state_size=network.state_size,
            work=_work(network, spaces),
            graph=b64encode(_export(network, spaces, set(dict(parameters)))),  # as Pydantic reads bytes
        )
        _compare(network, spec)
    return spec


@contextmanager
def _no_weights_alike(network: LearningNetwork) -> Iterator[None]:
    """Move all weights up a little, each by another bit, and put them back at the end.

    The exporter merges weights that are equal, such as the biases of two layers that begin at zero: once these have
    learnt, the graph would act with the bias of one layer in both. And a weight in the wrong place shows. Up, since a
    network may take no roots or logarithms of what falls below zero.
    """
    generator = torch.Generator().manual_seed(0)
    weights = network.state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    try:
        for tensor in weights.values():
            tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=_MOVED)
        yield
    finally:
        for name, tensor in weights.items():
            tensor.copy_(before[name])


def _compare(network: LearningNetwork, spec: GraphSpec) -> None:
    """Raise ExtensionError unless the graph says of random rows, over some ticks, what the network says of them.

    The states are those that the network comes to: it may take no others, such as numbers below zero for a count.
    """
    from rattle.policies.graph.program import GraphProgram

    random = np.random.default_rng(0)
    state = torch.zeros((_ROWS_TRIED, spec.state_size))
    path = network._extension.path
    for _ in range(_TICKS_TRIED):
        observation = spec.observation.draw(random, _ROWS_TRIED)
        kept, given = state.numpy().copy(), torch.from_numpy(observation.copy())  # acting overwrites the state
        with torch.no_grad():
            expected = network(given, state.clone())
            alone = [network(given[row : row + 1], state[row : row + 1].clone()) for row in range(_ROWS_ALONE)]
        if not np.array_equal(given.numpy(), observation):
            raise ExtensionError(f"{path}: step changes the observations that it is given: change a copy of them")
        try:
            program = GraphProgram(spec, {name: tensor.numpy() for name, tensor in network.state_dict().items()})
            outputs, value = program.forward(observation, kept)
        except PolicyError as error:
            raise ExtensionError(f"{path}: step cannot act without its code: {error}") from error
        found = (outputs, value if spec.value_head else expected[1].numpy(), kept)
        rows = [torch.cat(parts) for parts in zip(*alone, strict=True)]
        are_alike = (
            _alike(one, whole.numpy()) and _alike(one[:_ROWS_ALONE], some.numpy())
            for one, whole, some in zip(found, expected, rows, strict=True)
        )
        if not all(are_alike):
            raise ExtensionError(
                f"{path}: step becomes a graph that computes something else: it may hold no branches, loops or sizes "
                "that depend on the rows, no random draws, and nothing that one row takes from others"
            )
        state = expected[2]


def _alike(one: Any, other: Any) -> bool:
    return bool(np.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE))


def _work(network: LearningNetwork, spaces: Spaces) -> int:
    """Return about how many multiplications a row takes: once each weight, and of convolutions at every place."""
    work = [weight.numel() for weight in network.parameters()]

    def count(layer: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> None:
        work.append(layer.weight.numel() * (prod(found.shape[2:]) - 1))  # type: ignore[operator]

    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    hooks = [layer.register_forward_hook(count) for layer in convolutions]
    with torch.no_grad():
        network(torch.from_numpy(spaces.observation.zeros(1)), torch.zeros((1, network.state_size)))
    for hook in hooks:
        hook.remove()
    return sum(work)


def _export(network: LearningNetwork, spaces: Spaces, parameters: set[str]) -> bytes:
    """Return the ONNX graph of one tick, which takes the parameters as inputs."""
    import onnx

    state = [torch.zeros((2, network.state_size))] if network.state_size else []
    inputs = ["observation", *(["state"] if state else [])]
    outputs = ["outputs", "value", *(["next_state"] if state else [])]
    buffer, own = io.BytesIO(), network._extension
    with _naming_hidden_weights(own.path), own.calling("step"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _OneTick(network),
            (torch.from_numpy(spaces.observation.zeros(2)), *state),
            buffer,  # type: ignore[arg-type]
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
            opset_version=_OPSET,
            do_constant_folding=False,
            dynamo=False,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    kept = []
    for tensor in model.graph.initializer:
        name = tensor.name.removeprefix("network.")
        if name not in parameters:
            kept.append(tensor)
            continue
        for node in model.graph.node:
            node.input[:] = [name if own == tensor.name else own for own in node.input]
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for node in model.graph.node:
        node.ClearField("doc_string")
    del model.graph.value_info[:]
    model.producer_version = ""
    model.ir_version = _IR_VERSION
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextmanager
def _naming_hidden_weights(path: str) -> Iterator[None]:
    """Say of weights that are no parameters how they become some, where PyTorch prints their numbers."""
    try:
        yield
    except ExtensionError as error:
        if "Cannot insert a Tensor that requires grad as a constant" not in str(error.__cause__):
            raise
        raise ExtensionError(
            f"{path}: step uses weights that are not the network's own: a list of layers must be an nn.ModuleList, "
            "and a list of weights an nn.ParameterList"
        ) from error


def _try_out(network: LearningNetwork, spaces: Spaces) -> None:
    """Run a network once, so that what is wrong with it shows before anything is learnt."""
    observation = torch.from_numpy(spaces.observation.zeros(3))
    state = torch.zeros((3, network.state_size))
    with network._extension.calling("step"):
        if not network(observation, state)[0].requires_grad:
            raise WrongResult("outputs that no weight can change: leave detach, numpy and rounding out")
    with torch.no_grad():
        network.sequence(observation.unsqueeze(0), state, torch.zeros((1, 3), dtype=torch.bool))
    if type(network.own).sequence is not Network.sequence:
        _compare_sequence(network, spaces)


def _compare_sequence(network: LearningNetwork, spaces: Spaces) -> None:
    """Raise ExtensionError unless a network's own `sequence` returns what its `step` returns, tick by tick."""
    random = np.random.default_rng(0)
    observation = torch.from_numpy(spaces.observation.draw(random, 4, 3))
    with torch.no_grad():  # to a state that it may have
        state = network(torch.from_numpy(spaces.observation.draw(random, 3)), torch.zeros((3, network.state_size)))[2]
    starts = torch.zeros((4, 3), dtype=torch.bool)
    starts[2, 1] = True
    with torch.no_grad(), network._extension.calling("sequence"):
        found, expected = (
            network.own.sequence(observation, state, starts),
            Network.sequence(network.own, observation, state, starts),
        )
        if not all(_alike(one.numpy(), other.numpy()) for one, other in zip(found, expected, strict=True)):
            raise WrongResult("something else than step, tick by tick, where the state is zero at starts")


def _check_finite(*tensors: Tensor) -> None:
    if torch.onnx.is_in_onnx_export() or all(bool(tensor.isfinite().all()) for tensor in tensors):
        return
    raise WrongResult("numbers that are not finite: look for divisions and logarithms, or lower the learning rate")


def _check(what: str, tensor: Any, shape: tuple[int, ...], device: torch.device) -> None:
    if not isinstance(tensor, Tensor):
        raise WrongResult(f"{what} as {type(tensor).__name__}, not as a tensor")
    if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
        raise WrongResult(f"{what} as {tensor.dtype} {tuple(tensor.shape)}, where torch.float32 {shape} is wanted")
    if tensor.device != device:
        raise WrongResult(f"{what} on {tensor.device}, where the observations are on {device}")
