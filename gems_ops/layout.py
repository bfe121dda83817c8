"""What strides say: extent, overlap, and whether two tensors touch the same memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

INT32_EXTENT = 2**31 - 1


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last addressed one, both included; 0 for an empty tensor."""
    last = 0
    for n, stride in zip(shape, strides, strict=True):
        if n == 0:
            return 0
        last += (n - 1) * stride
    return last + 1


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a new contiguous tensor; every size is 1 or more."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def single_stride(shape: Sequence[int], strides: Sequence[int]) -> int | None:
    """The one stride that walks all these dimensions in their order, or None."""
    found = [(n, stride) for n, stride in zip(shape, strides, strict=True) if n != 1]
    if any(outer != inner * n for (_, outer), (n, inner) in zip(found, found[1:])):
        return None
    return found[-1][1] if found else 0


def has_overlap(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """True if two indices may address one element, as in an expanded tensor."""
    reach = 0
    for stride, n in sorted((stride, n) for n, stride in zip(shape, strides, strict=True) if n > 1):
        if stride <= reach:
            return True
        reach += (n - 1) * stride
    return False


def same_elements(a: Tensor, b: Tensor) -> bool:
    """True if both address the same elements in the same order."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def touches(a: Tensor, b: Tensor) -> bool:
    """True if the address ranges of two tensors meet (their elements may still interleave)."""
    a0, b0 = a.data_ptr(), b.data_ptr()
    a1 = a0 + extent(a.shape, a.stride()) * a.element_size()
    b1 = b0 + extent(b.shape, b.stride()) * b.element_size()
    return a0 < b1 and b0 < a1


def collapse(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The fewest dimensions that walk several tensors of one shape alike, by falling stride of the last of them.

    Gives the sizes and, for each tensor, its strides. Dimensions of size 1 vanish.
    """
    order = sorted((d for d in range(len(shape)) if shape[d] != 1), key=lambda d: -strides[-1][d])
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for d in order:
        if sizes and all(m[-1] == s[d] * shape[d] for m, s in zip(merged, strides, strict=True)):
            sizes[-1] *= shape[d]
            for m, s in zip(merged, strides, strict=True):
                m[-1] = s[d]
        else:
            sizes.append(shape[d])
            for m, s in zip(merged, strides, strict=True):
                m.append(s[d])
    return sizes, merged


def suggested_format(t: Tensor) -> torch.memory_format:
    """The memory format that ATen gives results like t: channels last if its strides grow in that order.

    torch._prims_common has it too, and imports sympy when it is called, 1.9 s (see `promote`).
    """
    order = {4: (1, 3, 2, 0), 5: (1, 4, 3, 2, 0)}.get(t.dim())
    if order is None or t.stride(1) == 0:
        return torch.contiguous_format
    least = 0
    for dim in order:
        n, stride = t.shape[dim], t.stride(dim)
        # Of (n, 1, 1, 1) either format would do; ATen calls it contiguous.
        if n == 0 or stride < least or (dim == 0 and least == t.stride(1)):
            return torch.contiguous_format
        least = stride * n
    return torch.channels_last if t.dim() == 4 else torch.channels_last_3d
