"""What an algorithm is: settings, and an update that turns a rollout into gradient steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

from pydantic import Field

from rattle.envs.validation import StrictSettings
from rattle.extensions import Extension, WrongResult
from rattle.learning.metrics import COMMON, Metric
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import Distribution

if TYPE_CHECKING:  # settings are read where nothing is learnt too, by services that have no PyTorch
    from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """What whole sequences of slots have in addition, for policies with memory."""

    memory: Tensor  # (N, S) float32: what each slot remembered before the first tick
    starts: Tensor  # (N, T) bool: where an episode begins, and nothing is remembered
    chosen: Tensor  # (N, T) bool: the samples that are learnt from


@dataclass(frozen=True)
class Batch:
    """N samples to learn from; `target` is what the value head should say.

    `log_prob` and `value` are those of the policy that played; where it was an older one and that is corrected, they
    are those of the policy that the update began with. For policies with memory, a row is a slot with all its T ticks,
    and the arrays are (N, T, ...), until a loss is computed: that gets flat samples in any case.
    """

    observation: Tensor  # (N, row)
    action: Tensor  # (N, ...) rows of the action space, such as int64 (N,) of discrete ones
    advantage: Tensor  # (N,) float32
    target: Tensor  # (N,) float32
    log_prob: Tensor  # (N,) float32
    value: Tensor  # (N,) float32
    weight: Tensor  # (N,) float32: how much an advantage counts, once it is shifted and scaled
    own: Tensor | None = field(default=None, kw_only=True)  # (N, K) float32: what the policy saw of its own past
    sequences: Sequences | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        from torch import Tensor

        for name in _SAMPLE:  # what users make wrong is found where they make it
            if not isinstance(array := getattr(self, name), Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(array).__name__}")
            if array.shape[:1] != self.action.shape[:1]:
                raise ValueError(f"{name} has the shape {tuple(array.shape)}, and there are {len(self)} actions")
            axes = 1 if self.sequences is None else 2
            if name in _NUMBERS and array.ndim != axes:  # a column beside a row would become a square
                wanted = tuple(self.action.shape[:axes])
                raise ValueError(f"{name} has the shape {tuple(array.shape)}, where {wanted} is wanted")

    def __len__(self) -> int:
        return self.action.shape[0]

    @property
    def samples(self) -> int:
        """Return how many samples there are to learn from."""
        return len(self) if self.sequences is None else int(self.sequences.chosen.sum())

    @property
    def row_samples(self) -> int:
        """Return how many samples a row has at most: 1, or its ticks."""
        return 1 if self.sequences is None else self.action.shape[1]

    @property
    def shown(self) -> Batch:
        """Return what the network is shown: the batch itself."""
        return self

    def chunks(self, size: int) -> list[Batch]:
        """Return views of as many rows as hold up to `size` samples, or of one."""
        step = max(1, size // self.row_samples)
        return [self.rows(start, min(start + step, len(self))) for start in range(0, len(self), step)]

    def rows(self, start: int, stop: int) -> Batch:
        """Return a view of some of the rows."""
        return self._each(lambda tensor: tensor[start:stop])

    def pick(self, rows: Tensor) -> Batch:
        """Return a copy of the rows with these numbers, (n,) int64."""
        return self._each(lambda tensor: tensor.index_select(0, rows))

    def flat(self) -> Batch:
        """Return the samples that are learnt from one by one."""
        if self.sequences is None:
            return self
        chosen = self.sequences.chosen
        own = None if self.own is None else self.own[chosen]
        return Batch(*(getattr(self, name)[chosen] for name in _SAMPLE), own=own)

    def _each(self, part: Callable[[Tensor], Tensor]) -> Batch:
        whole = self.sequences
        sequences = None if whole is None else Sequences(part(whole.memory), part(whole.starts), part(whole.chosen))
        own = None if self.own is None else part(self.own)
        return Batch(*(part(getattr(self, name)) for name in _SAMPLE), own=own, sequences=sequences)


#: A number for each sample.
_NUMBERS = frozenset({"advantage", "target", "log_prob", "value", "weight"})
_SAMPLE = tuple(each.name for each in fields(Batch) if not each.kw_only)


class Samples(Protocol):
    """What a step is taken on: a batch, or something that makes one when the policy has said what it says now."""

    @property
    def samples(self) -> int:
        """How many samples there are to learn from."""

    @property
    def shown(self) -> Batch:
        """What the network is shown."""

    def chunks(self, size: int) -> Sequence[Self]:
        """Return parts of about `size` samples, which are worked on one by one or side by side."""

    def flat(self) -> Self:
        """Return what a loss is computed of."""


class Loss(NamedTuple):
    """A loss, summed over samples: `total` is what is minimised; `sums` are reported, as means, by metric name."""

    total: Tensor
    sums: Mapping[str, Tensor]


S = TypeVar("S", bound=Samples)
#: From the distributions of n actions, values (n,) and the n samples that they belong to.
LossFunction = Callable[[Distribution, "Tensor", S], Loss]


class Optimisation(Protocol):
    """What an algorithm can do in one update."""

    @property
    def seed(self) -> int:
        """What random draws of this update are keyed by: another one in every update."""

    @property
    def version(self) -> int:
        """The version of the policy before the update."""

    def predict(self, batch: Batch) -> tuple[Distribution, Tensor]:
        """Return the distributions of actions and the values, (n,), that the policy gives now for n samples."""

    def step(self, samples: S, loss: LossFunction[S], learning_rate: float) -> dict[str, float]:
        """Take a step along the gradient of the mean loss; return the means of its sums, and the gradient's norm.

        Raises LearningError, and the whole update is undone, where a number is not finite or there are no samples.
        """


class Algorithm(StrictSettings):
    """An algorithm with its settings, which are the fields of a subclass; it says how it updates a policy."""

    #: What `update` returns, by name.
    metrics: ClassVar[tuple[Metric, ...]] = COMMON
    #: Where a user's algorithm is; None for those that come with Rattle.
    extension: ClassVar[Extension[Any] | None] = None
    #: Whether an update takes several steps, which are undone together: weights and moments are copied for that.
    several_steps: ClassVar[bool] = True

    id: str = Field("", description="Chooses this algorithm.")
    # Adam multiplies the two and squares the gradient: within these bounds, a finite gradient leaves everything finite.
    learning_rate: float = Field(1e-3, gt=0, le=1e15, description="Step size of Adam.")
    max_gradient_norm: float = Field(0.5, gt=0, le=1e15, description="Longer gradients are scaled down to this norm.")
    discount: float = Field(0.99, ge=0, le=1, description="What a reward one tick later is worth (gamma).")
    entropy_weight: float = Field(0.01, ge=0, description="Bonus for undecided policies, per nat.")
    value_weight: float = Field(0.5, ge=0, description="Weight of the value head's squared error.")
    scale_rewards: bool = Field(
        False,
        description="Learn in units of the running size of returns, so that rewards of any size teach alike; the "
        "values that a policy predicts are in rewards all the same.",
    )
    scale_observations: bool = Field(
        False,
        description="Learn with observations shifted and scaled by their running moments, which go into the weights "
        "of policies; for numbers, and networks whose first layer is linear.",
    )

    def __setattr__(self, name: str, value: Any) -> None:
        """Raise AttributeError: what an algorithm kept would be lost when a run is resumed."""
        raise AttributeError(
            f"'{name}' cannot be set: an algorithm keeps nothing from one update to the next, but has "
            "optimisation.version and optimisation.seed"
        )

    @property
    def complete_episodes(self) -> bool:
        """Whether rollouts must hold one complete episode of every slot, instead of a fixed number of ticks."""
        return False

    @property
    @abstractmethod
    def rollout_ticks(self) -> int:
        """Return the ticks of a rollout: just so many or, where episodes are complete, at most."""

    @property
    def needs_value(self) -> bool:
        """Whether the policy needs a value head."""
        return True

    @abstractmethod
    def update(self, rollout: Rollout[Tensor], optimisation: Optimisation) -> dict[str, float]:
        """Improve the policy by a rollout, and return what the update did by the names in `metrics`."""


class OneStep(Algorithm):
    """An algorithm whose update is one step on all samples of a rollout."""

    several_steps: ClassVar[bool] = False

    def update(self, rollout: Rollout[Tensor], optimisation: Optimisation) -> dict[str, float]:
        """Take the step."""
        batch = self.prepare(rollout)
        if not isinstance(batch, Batch):
            raise WrongResult(f"{type(batch).__name__} instead of a Batch", "prepare")
        done = optimisation.step(batch, self.loss, self.learning_rate)
        return {**done, "learning_rate": self.learning_rate}

    @abstractmethod
    def prepare(self, rollout: Rollout[Tensor]) -> Batch:
        """Return the samples of a rollout."""

    @abstractmethod
    def loss(self, policy: Distribution, value: Tensor, batch: Batch) -> Loss:
        """Return the loss over the samples of a batch, or of some rows of one."""
