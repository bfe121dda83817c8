"""Comparing what an operator returned with the truth, and with what ATen returned."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from gems_ops.tolerance import bounds, largest_error, reduction_length


def tensors(value: object) -> list[Tensor]:
    """The tensors in nested arguments or results."""
    return [t for t in tree_leaves(value) if isinstance(t, Tensor)]


def copy_layout(t: Tensor, where: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A copy with the same strides, expanded dimensions included, in memory of its own."""
    size = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride())) if t.numel() else 0
    flat = torch.zeros(size + t.storage_offset() % 4, dtype=dtype or t.dtype, device=where or t.device)
    copy = flat.as_strided(t.shape, t.stride(), t.storage_offset() % 4)  # keeps misaligned views misaligned
    unexpanded = copy.as_strided([1 if s == 0 else n for n, s in zip(t.shape, t.stride())], t.stride(), t.storage_offset() % 4)
    source = t.detach().as_strided(unexpanded.shape, t.stride()) if t.numel() else t.detach()
    unexpanded.copy_(source)
    return copy


def to_truth(value: object) -> object:
    """Arguments on the CPU with floating point widened to float64."""

    def widen(v: object) -> object:
        if isinstance(v, Tensor):
            return v.detach().cpu().double() if v.is_floating_point() else v.detach().cpu()
        if isinstance(v, torch.dtype):
            return torch.float64 if v.is_floating_point else v
        return v

    return tree_map(widen, value)


def layout_of(t: Tensor) -> tuple:
    """What must be equal besides the values: dtype, shape, strides of dimensions that have more than one index."""
    strides = tuple(s for n, s in zip(t.shape, t.stride()) if n > 1) if t.numel() else ()
    return t.dtype, tuple(t.shape), strides


def check(label: str, got: object, native: object, truth: object, inputs: list[Tensor], factor: float = 1.0) -> None:
    """Assert that `got` has ATen's layout and is as near to the truth as its dtype allows, or as ATen is."""
    ours, theirs, exact = tensors(got), tensors(native), tensors(truth)
    # ATen's CUDA kernel of unique returns no tensor for places nobody asked for, its CPU kernel an empty one
    exact = exact if len(exact) == len(theirs) else theirs
    assert len(ours) == len(theirs), f"{label}: {len(ours)} results, ATen has {len(theirs)}"
    for i, (o, n, e) in enumerate(zip(ours, theirs, exact)):
        assert layout_of(o) == layout_of(n), f"{label}[{i}]: {layout_of(o)}, ATen gives {layout_of(n)}"
        # Some results are shaped otherwise by ATen's CPU kernels: the buffer of log_sigmoid, aminmax(keepdim=True).
        e = e if e.shape == n.shape else n
        check_values(f"{label}[{i}]", o.detach().cpu(), n.detach().cpu(), e.detach().cpu(), inputs, factor)


def check_values(label: str, got: Tensor, native: Tensor, truth: Tensor, inputs: list[Tensor], factor: float) -> None:
    if torch.equal(got, native):  # bit for bit what ATen gives, of complex numbers and of an order among equals too
        return
    rtol, atol = bounds(got.dtype, reduction_length(inputs, got), factor)
    if torch.allclose(got.to(truth.dtype), truth, rtol=rtol, atol=atol, equal_nan=True):
        return
    # Rounded inputs can be further from the truth than the bound, for ATen too: then be no worse than ATen.
    same_special = torch.equal(got.isnan(), native.isnan()) and torch.equal(got.isinf(), native.isinf())
    ours, theirs = largest_error(got, truth), largest_error(native, truth)
    assert got.is_floating_point() and same_special and ours <= 1.5 * theirs, (
        f"{label}: error {ours:.3g}, ATen's own {theirs:.3g}, bound rtol {rtol:.2g} atol {atol:.2g}\n"
        f"got   {got.flatten()[:6]}\ntruth {truth.flatten()[:6]}"
    )
