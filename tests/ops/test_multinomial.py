"""multinomial: frequencies (chi-square, fixed seeds), categories of weight zero, samples without replacement, ATen's errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import flag_gems
from gems_ops.register import counts_of
from gems_runtime import device

HERE = device.torch_device()
WEIGHTS = torch.tensor([4.0, 0.0, 1.0, 2.0, 0.5, 0.0, 8.0, 3.0, 0.0])
ROWS = 4000


def drawn(weights: Tensor, samples: int, replacement: bool, seed: int = 0) -> Tensor:
    """What our kernels draw from a seed."""
    counts = counts_of("aten::multinomial")
    served = counts.served
    torch.manual_seed(seed)
    with flag_gems.use_gems(include=["multinomial"]):
        result = torch.multinomial(weights.to(HERE), samples, replacement)
    assert counts.served == served + 1, counts
    return result.cpu()


def chi_square(found: Tensor) -> float:
    """Of the frequencies of the categories that have a weight; 5 degrees of freedom."""
    chosen = WEIGHTS > 0
    expected = WEIGHTS[chosen] / WEIGHTS.sum() * found.numel()
    seen = torch.bincount(found.flatten(), minlength=len(WEIGHTS))
    assert not seen[~chosen].any(), "a category without weight was drawn"
    return ((seen[chosen] - expected) ** 2 / expected).sum().item()


CRITICAL = 20.5  # of chi-square with 5 degrees of freedom, at a level of 0.001


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_single_samples_have_their_probabilities(dtype: torch.dtype) -> None:
    assert chi_square(drawn(WEIGHTS.to(dtype).expand(ROWS, -1).contiguous(), 1, False)) < CRITICAL


@pytest.mark.parametrize("rows", [1, 40])
def test_samples_with_replacement_have_their_probabilities(rows: int) -> None:
    weights = WEIGHTS.expand(rows, -1).contiguous() if rows > 1 else WEIGHTS
    assert chi_square(drawn(weights, ROWS // rows, True)) < CRITICAL


def test_the_first_sample_without_replacement_has_its_probability_and_none_comes_twice() -> None:
    found = drawn(WEIGHTS.expand(ROWS, -1).contiguous(), 6, False)
    assert chi_square(found[:, 0]) < CRITICAL
    assert torch.equal(found.sort(1).values, (WEIGHTS > 0).nonzero().T.expand(ROWS, -1))


def test_a_row_that_spans_several_programs() -> None:
    weights = torch.zeros(3, 9001)
    weights[0, 17] = weights[1, 8999] = weights[2, 4096] = 1e-3
    assert drawn(weights, 1, False).flatten().tolist() == [17, 8999, 4096]
    assert drawn(weights, 5, True).T[0].tolist() == [17, 8999, 4096]


def test_a_seed_decides() -> None:
    weights = WEIGHTS.expand(50, -1).contiguous()
    for samples, replacement in ((1, False), (3, False), (9, True)):
        assert torch.equal(drawn(weights, samples, replacement, 3), drawn(weights, samples, replacement, 3))
        assert not torch.equal(drawn(weights, samples, replacement, 3), drawn(weights, samples, replacement, 4))


WRONG = {
    "negative": ([1.0, -1.0], 1, False), "infinite": ([1.0, float("inf")], 1, False), "nan": ([1.0, float("nan")], 1, False),
    "zero": ([0.0, 0.0], 1, False), "too many": ([1.0, 1.0], 3, False), "none": ([1.0, 1.0], 0, False),
}  # fmt: skip


# On a GPU weights that are none are found by an assert on the device, which ends the process.
@pytest.mark.parametrize("case", WRONG if HERE.type == "cpu" else ["too many", "none"])
def test_errors_are_atens(case: str) -> None:
    weights, samples, replacement = WRONG[case]
    w = torch.tensor(weights, device=HERE)
    with pytest.raises(RuntimeError) as native:
        torch.multinomial(w, samples, replacement)
    with flag_gems.use_gems(include=["multinomial"]), pytest.raises(RuntimeError) as error:
        torch.multinomial(w, samples, replacement)
    assert str(error.value) == str(native.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_several_of_16_bits_with_replacement_are_left_to_aten(dtype: torch.dtype) -> None:
    """ATen adds such weights up in 16 bits, in an order of its own: now and then another category would come."""
    count = counts_of("aten::multinomial")
    before = count.served, count.declined
    torch.manual_seed(0)
    want = torch.multinomial(WEIGHTS.to(HERE, dtype), 50, True)
    torch.manual_seed(0)
    with flag_gems.use_gems(include=["multinomial"]):
        assert torch.equal(torch.multinomial(WEIGHTS.to(HERE, dtype), 50, True), want)
    assert (count.served, count.declined) == (before[0], before[1] + 1)
