"""What tools/bench ops calls correct: of equal elements any index, and errors that fit the length of a product."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gems_ops.op import find
from gems_runtime import device
from tools import bench_ops


@pytest.fixture
def x() -> torch.Tensor:
    return torch.tensor([[1.0, 3.0, 3.0, float("nan"), 0.0], [2.0, 2.0, 2.0, 2.0, 2.0]]).to(device.torch_device())


def test_topk_may_name_any_of_equal_elements(x: torch.Tensor) -> None:
    (op,) = find("aten::topk")
    found = torch.tensor([[float("nan"), 3.0], [2.0, 2.0]], device=x.device)
    for indices, right in (([[3, 1], [0, 1]], True), ([[3, 2], [4, 2]], True), ([[3, 0], [0, 1]], False), ([[3, 1], [2, 2]], False)):
        assert bench_ops._stand_in_their_places(op, (x, 2), {}, found, torch.tensor(indices, device=x.device)) is right
    assert bench_ops.is_correct(op, (x, 2), {})


def test_median_may_name_any_of_equal_elements(x: torch.Tensor) -> None:
    (op,) = find("aten::median.dim")
    found = torch.tensor([float("nan"), 2.0], device=x.device)
    for indices, right in (([3, 0], True), ([3, 4], True), ([2, 4], False)):
        assert bench_ops._stand_in_their_places(op, (x, -1), {}, found, torch.tensor(indices, device=x.device)) is right
    assert bench_ops.is_correct(op, (x, -1), {})


def test_operators_of_one_answer_must_give_it() -> None:
    assert {o.name for o in bench_ops.all_ops() if o.any_of_equal} == {"aten::topk", "aten::kthvalue", "aten::median.dim"}


def test_a_product_may_err_as_its_length_lets_it() -> None:
    """Its tensors do not say how long it is: of 512 x 11008 and 11008 x 4096 they would say 21."""
    (op,) = find("aten::dot")
    truth = torch.zeros(1, dtype=torch.float64)
    op = replace(op, fn=lambda a, b: torch.full((1,), 3e-4), name="gems::dot", reference=lambda a, b: truth.to(a.dtype))
    a = torch.ones(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_ops, "scope", lambda op: torch.no_grad)
        assert not bench_ops.is_correct(op, (a, a), {})
        assert bench_ops.is_correct(op, (a, a), {}, flops=2.0 * 11008)
