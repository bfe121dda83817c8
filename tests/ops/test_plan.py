"""What a plan's text allocates."""

from __future__ import annotations

import pytest
import torch

from gems_ops.plan import Plan

CPU = torch.device("cpu")
LAYOUTS = (((3, 4), (4, 1)), ((3, 4), (1, 3)), ((3, 4), (8, 1)), ((3, 4), (0, 1)), ((3, 1), (1, 1)), ((3, 1), (1, 7)), ((), ()), ((0,), (1,)))


@pytest.mark.parametrize("shape, strides", LAYOUTS)
@pytest.mark.parametrize("known", [False, True])
def test_tensors_of_one_layout_are_made_alike(shape: tuple, strides: tuple, known: bool) -> None:
    """A layout with gaps or overlaps, which empty_like does not keep, is made as it was asked for."""
    x, plan = torch.empty_strided(shape, strides, dtype=torch.float16), Plan("x")
    if known:
        plan.has("x", x)
    names = [plan.empty(f"t{i}", shape, dtype, CPU, strides) for i, dtype in enumerate((torch.float32, torch.float32, torch.int64))]
    made = plan.build(f"({', '.join(names)})")(x)
    assert [t.dtype for t in made] == [torch.float32, torch.float32, torch.int64]
    assert all(t.shape == shape and t.stride() == strides for t in made) and len({id(t) for t in made}) == 3
