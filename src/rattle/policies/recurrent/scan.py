"""A linear scan over time with exact gradients: `memory = keep * memory + add`, tick by tick."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rattle.policies.recurrent.kernel import scan, scan_gradients


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, keep: Tensor, add: Tensor, first: Tensor) -> Tensor:
        found = torch.empty_like(add)
        scan(*_flat(keep, add), first.numpy().ravel(), *_flat(found))
        context.save_for_backward(keep, found, first)
        return found

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        keep, found, first = context.saved_tensors
        of_keep, of_add, of_first = torch.empty_like(keep), torch.empty_like(keep), torch.empty_like(first)
        arrays = (*_flat(keep, found), first.numpy().ravel(), *_flat(gradients[0].contiguous()))
        scan_gradients(*arrays, *_flat(of_keep, of_add), of_first.numpy().ravel())
        return of_keep, of_add, of_first


def linear_scan(keep: Tensor, add: Tensor, first: Tensor) -> Tensor:
    """Return what is remembered after each tick (T, N, M), of `keep` and `add` (T, N, M) and what was before, (N, M).

    All are float32, and numbers are added in the order of time, whatever the number of threads. In main memory compiled
    code does it, elsewhere PyTorch, tick by tick.
    """
    if add.device.type == "cpu":
        found: Tensor = _Scan.apply(keep.contiguous(), add.contiguous(), first.contiguous())  # type: ignore[no-untyped-call]
        return found
    memory, after = first, []
    for kept, added in zip(keep, add, strict=True):
        memory = kept * memory + added
        after.append(memory)
    return torch.stack(after)


def _flat(*tensors: Tensor) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Return views (T, N * M) of contiguous tensors (T, N, M)."""
    return [tensor.detach().reshape(len(tensor), -1).numpy() for tensor in tensors]
