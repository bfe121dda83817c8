"""Types and strides of results beside torch's, over random operands."""

from __future__ import annotations

import random

import pytest
import torch
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND, elementwise_dtypes, suggest_memory_format

from gems_ops.layout import suggested_format
from gems_ops.promote import Promotion, elementwise_strides, promoted

DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
)  # fmt: skip


def operand(random: random.Random) -> object:
    if random.random() < 0.3:
        return random.choice([True, 2, 2.5])
    return torch.ones(random.choice([(), (3,), (2, 1)]), dtype=random.choice(DTYPES))


@pytest.mark.parametrize("kind", Promotion)
def test_types_are_torchs(kind: Promotion) -> None:
    source = random.Random(0)
    for _ in range(400):
        operands = [operand(source) for _ in range(source.randint(1, 3))]
        if not any(isinstance(o, torch.Tensor) for o in operands):
            continue
        wanted = elementwise_dtypes(*operands, type_promotion_kind=ELEMENTWISE_TYPE_PROMOTION_KIND[kind.name])
        if any(d.is_complex for d in wanted):
            continue  # complex numbers are the native kernels'
        assert promoted(operands, kind) == wanted, operands


def test_strides_are_atens() -> None:
    source = random.Random(1)
    for _ in range(2000):
        shape = tuple(source.choice([1, 1, 2, 3, 5]) for _ in range(source.randint(1, 4)))
        tensors = []
        for _ in range(source.randint(1, 3)):
            order = source.sample(range(len(shape)), len(shape))
            sizes = [1 if source.random() < 0.2 else shape[d] for d in order]
            t = torch.empty(sizes).permute(*(order.index(d) for d in range(len(shape))))
            if source.random() < 0.2:
                t = torch.empty([2 * n for n in t.shape])[tuple(slice(None, None, 2) for _ in shape)]
            tensors.append(t)
        shape = tuple(torch.broadcast_shapes(*(t.shape for t in tensors)))
        aten = (torch.neg, torch.add, torch.addcmul)[len(tensors) - 1](*tensors)
        got = elementwise_strides(tensors, shape, None)
        # The stride of a dimension of one index says nothing.
        assert all(n == 1 or a == b for n, a, b in zip(shape, got, aten.stride())), [(t.shape, t.stride()) for t in tensors]


def test_suggested_formats_are_torchs() -> None:
    source = random.Random(2)
    for _ in range(500):
        shape = [source.choice([1, 1, 2, 3]) for _ in range(source.choice([3, 4, 5]))]
        order = source.sample(range(len(shape)), len(shape))
        t = torch.empty(shape).permute(*order)
        assert suggested_format(t) == suggest_memory_format(t), (t.shape, t.stride())
