"""Matrix products where samples do not reach: while their kernel is being timed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import flag_gems
from gems_ops.linalg import tiled
from gems_ops.register import counts_of
from gems_runtime import device


class Repeated:
    """A kernel that is launched twice, as a tuner launches it many times, with the same arguments."""

    def __init__(self, kernel: object) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def launch(*args: object, **options: object) -> None:
            for _ in range(2):
                self.kernel[grid](*args, **options)

        return launch


@pytest.mark.parametrize("name, shape", [("addmm_", (40, 33)), ("baddbmm_", (2, 40, 33)), ("addbmm_", (40, 33))])
def test_added_in_place_while_the_kernel_is_timed(name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "_tiled_matmul_kernel", Repeated(tiled._tiled_matmul_kernel))
    g, lead = torch.Generator().manual_seed(0), () if name == "addmm_" else (2,)
    x, a, b = (torch.randn(s, generator=g).to(device.torch_device()) for s in (shape, (*lead, 40, 24), (*lead, 24, 33)))
    expected, got = x.clone(), x.clone()
    getattr(expected, name)(a, b, beta=0.5)
    served = counts_of(f"aten::{name}").served
    with flag_gems.use_gems(include=[name.rstrip("_")]):
        getattr(got, name)(a, b, beta=0.5)
    assert counts_of(f"aten::{name}").served > served
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
