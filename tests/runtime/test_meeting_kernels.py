"""Programs that meet, compiled for devices that are not here: how they wait, what they keep, and where they are not planned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gems_ops.fused import rms_norm
from gems_ops.rows import layer_norm, meeting, norm_meeting, softmax, softmax_backward, weight_norm
from gems_runtime import LibEntry
from gems_runtime.target import compiling_for

SHAPE = (1024, 131072)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def forward(dtype: torch.dtype, dim: int) -> object:
    return softmax.softmax(empty(*(SHAPE if dim == 1 else (8192, 8192)), dtype=dtype), dim, False)


def backward(dtype: torch.dtype, dim: int) -> object:
    tensors = [empty(*(SHAPE if dim == 1 else (8192, 8192)), dtype=dtype) for _ in range(2)]
    return softmax_backward.softmax_backward(*tensors, dim, dtype)


def norm(dtype: torch.dtype, _: int) -> object:
    arguments = (empty(*SHAPE, dtype=dtype), [SHAPE[1]], *(empty(SHAPE[1], dtype=dtype) for _ in range(2)), 1e-5)
    return layer_norm.layer_norm(*arguments)(*arguments)


def norm_gradient(dtype: torch.dtype, _: int) -> object:
    shape = (2048, 16384)
    arguments = (empty(*shape, dtype=dtype), empty(*shape, dtype=dtype), empty(shape[1], dtype=dtype), 1e-5)
    return rms_norm._plan_backward(*arguments)(*arguments)


def weights(dtype: torch.dtype, _: int) -> object:
    arguments = (empty(4096, 4096, dtype=dtype), empty(1, 4096, dtype=dtype), 1)
    return weight_norm.weight_norm_interface(*arguments)(*arguments)


def weights_gradient(dtype: torch.dtype, _: int) -> object:
    matrices, vector = [empty(4096, 4096, dtype=dtype) for _ in range(2)], empty(1, 4096, dtype=dtype)
    arguments = (*matrices, vector, empty(1, 4096), 1)
    return weight_norm.weight_norm_interface_backward(*arguments)(*arguments)


CASES = (
    (softmax._shared_softmax_kernel, forward, (0, 1)),
    (softmax_backward._shared_gradient_kernel, backward, (0, 1)),
    (norm_meeting._shared_norm_kernel, norm, (1,)),
    (norm_meeting._shared_norm_gradient_kernel, norm_gradient, (1,)),
    (weight_norm._shared_weight_norm_kernel, weights, (1,)),
    (weight_norm._shared_weight_norm_gradient_kernel, weights_gradient, (1,)),
)


def compiled(kernel: LibEntry, run: Callable[[torch.dtype, int], object], target: str, dtype: torch.dtype, dim: int) -> list:
    """What a call compiles the kernel to."""
    with compiling_for(target) as driver:
        run(dtype, dim)
        return list(kernel.fn.device_caches[driver.get_current_device()][0].values())


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "hip:gfx942"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1].__name__)
def test_programs_wait_where_they_may(case: tuple, target: str) -> None:
    kernel, run, dims = case
    for dim in dims:
        for dtype in (torch.float32, torch.bfloat16):
            found = compiled(kernel, run, target, dtype, dim)
            assert bool(found) == target.startswith("cuda")
            for one in found:
                ptx = one.asm["ptx"]
                assert "atom.global.gpu.acq_rel.add" in ptx and "ld.global.gpu.acquire" in ptx
                # what others have published is never taken from the first cache
                assert "ld.global.cg" in ptx


def test_float64_and_few_rows_do_not_meet() -> None:
    with compiling_for("cuda:90"):
        rows = meeting.Rows(1024, 131072, 1)
        assert meeting.meeting(rows, (131072, 0, 1), torch.float32, softmax._SHARES) is not None
        assert meeting.meeting(rows, (131072, 0, 1), torch.float64, softmax._SHARES) is None
        assert meeting.meeting(meeting.Rows(32, 131072, 1), (131072, 0, 1), torch.float32, softmax._SHARES) is None
