"""Benchmark workloads: what is timed, and how many bytes and operations it must at least cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Workload:
    """One call to time. `make(dtype, device)` gives (args, kwargs)."""

    label: str
    make: Callable[[torch.dtype, torch.device], tuple[tuple, dict]]
    flops: Callable[[tuple], float] | None = None  # of the arguments; None: judged by bytes
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)


def tensor_bytes(*tensors: object) -> int:
    """Bytes of every distinct element of the tensors among the arguments (an expanded dimension counts once)."""
    return sum(_bytes(t) for t in tensors if isinstance(t, Tensor))


def _bytes(t: Tensor) -> int:
    return t.element_size() * prod(n for n, stride in zip(t.shape, t.stride(), strict=True) if stride)


def random_like(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Normal random numbers; small integers for integer dtypes."""
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.randint(0, 2 if dtype == torch.bool else 8, shape, device=device).to(dtype)


def stream(inputs: int, shape: tuple[int, ...] = (8192, 8192), *extra: object, **kwargs: object) -> tuple[Workload, ...]:
    """`inputs` dense tensors of one shape: bound by memory."""

    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        return (*(random_like(shape, dtype, device) for _ in range(inputs)), *extra), dict(kwargs)

    return (Workload("x".join(map(str, shape)), make),)


def matmul(m: int, n: int, k: int, batch: int = 0) -> Workload:
    """A matrix product (m, k) @ (k, n), batched if batch > 0."""
    lead = (batch,) if batch else ()

    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        return (random_like((*lead, m, k), dtype, device), random_like((*lead, k, n), dtype, device)), {}

    return Workload(f"{m}x{n}x{k}" + (f" batch {batch}" if batch else ""), make, lambda args: 2.0 * max(batch, 1) * m * n * k)
