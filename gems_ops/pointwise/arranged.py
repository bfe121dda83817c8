"""Benchmark workloads of operands that do not lie alike: transposed, broadcast, with gaps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gems_ops.workloads import Workload, random_like

New = Callable[..., Tensor]  # a tensor of these sizes

ONE: dict[str, Callable[[New], tuple[Tensor, ...]]] = {
    "8192x8192 every second column": lambda new: (new(8192, 16384)[:, ::2],),
    "8192x8192 of 8193 columns": lambda new: (new(8192, 8193)[:, :-1],),
    "67108863": lambda new: (new(67108863),),
}
TWO: dict[str, Callable[[New], tuple[Tensor, ...]]] = {
    "8192x8192, the second transposed": lambda new: (new(8192, 8192), new(8192, 8192).t()),
    "8192x8192, both transposed": lambda new: (new(8192, 8192).t(), new(8192, 8192).t()),
    "8192x8192 and a row": lambda new: (new(8192, 8192), new(8192)),
    "8192x8192 and a column": lambda new: (new(8192, 8192), new(8192, 1)),
    "a row and a column of 8192": lambda new: (new(8192), new(8192, 1)),
    "64x1024x1024 and 64x1x1024": lambda new: (new(64, 1024, 1024), new(64, 1, 1024)),
    "64x256x64x64 and channels_last": lambda new: (new(64, 256, 64, 64), _channels_last(new(64, 256, 64, 64))),
    "64x256x64x64 channels_last and its channels": lambda new: (_channels_last(new(64, 256, 64, 64)), new(256, 1, 1)),
    "32x32x256x256 and permuted 0213": lambda new: (new(32, 32, 256, 256), new(32, 256, 32, 256).permute(0, 2, 1, 3)),
    "4194304x12 and a column": lambda new: (new(4194304, 12), new(4194304, 1)),
}
MOVED: dict[str, Callable[[New], tuple[Tensor, ...]]] = {
    "8192x8192 from transposed": lambda new: (new(8192, 8192), new(8192, 8192).t()),
    "8192x8192 from transposed, other dtype": lambda new: (new(8192, 8192), _other(new(8192, 8192)).t()),
}


def _channels_last(t: Tensor) -> Tensor:
    return t.to(memory_format=torch.channels_last)


def _other(t: Tensor) -> Tensor:
    return t.to(torch.bfloat16 if t.dtype == torch.float32 else torch.float32)


def arranged(operands: dict[str, Callable[[New], tuple[Tensor, ...]]]) -> tuple[Workload, ...]:
    """A workload of each arrangement."""

    def workload(label: str, arrange: Callable[[New], tuple[Tensor, ...]]) -> Workload:
        def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
            return arrange(lambda *shape: random_like(shape, dtype, device)), {}

        return Workload(label, make)

    return tuple(workload(*item) for item in operands.items())
