"""What `compat` changes in Triton's interpreter: faster, and the same results."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from gems_runtime import device

pytestmark = pytest.mark.skipif(not device.interpreted(), reason="is about the interpreter")


@triton.jit
def _first_larger(a, i, b, j):
    """Not commutative: of equals the left one."""
    return tl.where(b > a, b, a), tl.where(b > a, j, i)


@triton.jit
def _times(a, b):
    return a * b


@triton.jit
def _folding_kernel(x_ptr, value_ptr, index_ptr, product_ptr, running_ptr, at_ptr, N: tl.constexpr):
    row, col = tl.arange(0, 4)[:, None], tl.arange(0, N)[None, :]
    x = tl.load(x_ptr + row * N + col)
    index = col + 0 * row
    value, at = tl.reduce((x, index), 1, _first_larger)
    tl.store(value_ptr + tl.arange(0, 4), value)
    tl.store(index_ptr + tl.arange(0, 4), at)
    tl.store(product_ptr, tl.reduce(x, None, _times))
    running, where = tl.associative_scan((x, index), 1, _first_larger)
    tl.store(running_ptr + row * N + col, running)
    tl.store(at_ptr + row * N + col, where)


def test_functions_of_blocks_give_what_functions_of_elements_give() -> None:
    x = torch.randint(1, 3, (4, 16), generator=torch.Generator().manual_seed(0)).float()
    value, index, product = torch.empty(4), torch.empty(4, dtype=torch.int32), torch.empty(1)
    running, at = torch.empty(4, 16), torch.empty(4, 16, dtype=torch.int32)
    _folding_kernel[(1,)](x, value, index, product, running, at, 16)
    assert torch.equal(value, x.amax(1)) and torch.equal(index.long(), x.argmax(1))
    assert product.item() == x.prod().item()
    assert torch.equal(running, x.cummax(1).values)
    firsts = [[x[r, : c + 1].argmax().item() for c in range(16)] for r in range(4)]
    assert at.tolist() == firsts


@triton.jit
def _failing_kernel(x_ptr):
    x = _times(tl.load(x_ptr), 2)
    tl.store(x_ptr, x.no_such_attribute)


def test_a_failed_kernel_leaves_the_next_one_whole() -> None:
    with pytest.raises(Exception, match="no_such_attribute"):
        _failing_kernel[(1,)](torch.ones(1))
    test_functions_of_blocks_give_what_functions_of_elements_give()
