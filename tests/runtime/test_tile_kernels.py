"""Sorting by digits, compiled for a device that is not here: what its texts in PTX rely on of Triton, and where it is not planned."""

from __future__ import annotations

import re

import pytest
import torch

from gems_ops.op import Declined
from gems_ops.order import ptx, radix, sorting, sweeps
from gems_runtime import LibEntry
from gems_runtime.target import compiling_for

# As threads are numbered: ptx.ranked counts a warp's items in the order of its lanes.
ONE_EACH = "#ttg.blocked<{sizePerThread = [1], threadsPerWarp = [32], warpsPerCTA = [8], order = [0]}>"


def sort(n_rows: int, n: int, dtype: torch.dtype) -> None:
    x = torch.empty(n_rows, n, dtype=dtype, device="meta")
    sorting.sort(x, True, -1, False)(x, True, -1, False)


def compiled(kernel: LibEntry, n: int, dtype: torch.dtype, target: str) -> list:
    """What a sort of rows of n compiles the kernel to."""
    with compiling_for(target) as driver:
        sort(4, n, dtype)
        return list(kernel.fn.device_caches[driver.get_current_device()][0].values())


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("kernel, n", [(radix._row_kernel, 1500), (sweeps._sweep_kernel, 5000), (sweeps._count_kernel, 5000)])
def test_each_thread_has_one_element_of_what_a_text_takes(kernel: LibEntry, n: int, dtype: torch.dtype, target: str) -> None:
    for each in compiled(kernel, n, dtype, target):
        code = each.asm["ttgir"]
        layouts = dict(re.findall(r"^(#\w+) = (#ttg\.blocked<.*>)$", code, re.MULTILINE))
        texts = [line for line in code.splitlines() if "elementwise_inline_asm" in line]
        assert texts, "nothing is written in PTX"
        for line in texts:
            operands = re.findall(r"tensor<(\d+)x[^,>]*(?:<\w+>)?, (#\w+)>", line)
            assert operands and all(int(n) == ptx.THREADS and layouts[name] == ONE_EACH for n, name in operands), line[-300:]
        assert each.asm["ptx"].count("gems_tile[") == 1, "shared memory is allocated more than once"


def test_amd_has_atens_long_sorts() -> None:
    with compiling_for("hip:gfx942"):
        sort(4, 512, torch.float32)
        for n, dtype in ((513, torch.float32), (5000, torch.float32), (300, torch.int64)):
            with pytest.raises(Declined, match="NVIDIA"):
                sort(4, n, dtype)
