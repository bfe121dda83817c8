"""Pointwise kernels where offsets pass 2**31: many elements, and few that lie far apart."""

from __future__ import annotations

import pytest
import torch

import flag_gems
from gems_ops.register import counts_of

pytestmark = pytest.mark.gpu

FAR = 2**31 + 24


def test_more_than_2_to_the_31_elements() -> None:
    x = torch.arange(251, dtype=torch.uint8, device="cuda").repeat(FAR // 251 + 1)[:FAR]
    before = counts_of("aten::bitwise_xor.Scalar").served
    with flag_gems.use_gems():
        y = x ^ 85
    assert counts_of("aten::bitwise_xor.Scalar").served == before + 1
    for part in (slice(0, 4096), slice(2**31 - 2048, 2**31 + 24), slice(FAR - 64, FAR)):
        assert torch.equal(y[part].cpu(), x[part].cpu() ^ 85)


@pytest.mark.parametrize("shape, strides", [((2, 3), (2**31, 7)), ((64, 64), (1, 2**31 // 63)), ((5,), (2**29 + 1,))], ids=str)
def test_few_elements_that_lie_far_apart(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    far = torch.zeros(FAR + 4096, dtype=torch.int8, device="cuda").as_strided(shape, strides)
    far.copy_(torch.arange(far.numel(), device="cuda").reshape(shape) % 100)
    near = far.contiguous()
    with flag_gems.use_gems():
        assert torch.equal(far + near, near + near)
        far.neg_()
        assert torch.equal(far.contiguous(), -near)
