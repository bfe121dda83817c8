"""The layout engine of pointwise kernels against a walk over every index, and what decides how memory is walked."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
import triton
from torch import Tensor

from gems_ops.plan import Code, Plan
from gems_ops.pointwise.engine import Dtypes, Pointwise
from gems_ops.pointwise.walk import Mode, walk
from gems_runtime import device

HERE = device.torch_device()


@triton.jit
def combined(x, y):
    return x * 1000 + y, x - y


ENGINE = Pointwise(combined, ("x", "y"), frozenset({"x", "y"}), raw=frozenset({"x", "y"}), outputs=2)


def random_operand(shape: tuple[int, ...], dice: random.Random, expands: bool) -> Tensor:
    """Numbers in memory of random order of dimensions, gaps, offset and (`expands`) repetition."""
    order = dice.sample(range(len(shape)), len(shape))
    strides, step = [0] * len(shape), 1
    for d in order:
        if expands and dice.random() < 0.25:
            continue
        strides[d] = step * dice.choice((1, 1, 1, 2, 3))
        step = strides[d] * shape[d]
    offset = dice.choice((0, 0, 1, 16))
    flat = torch.randint(0, 1000, (offset + step + 1,), generator=torch.Generator().manual_seed(dice.randrange(999)))
    return flat.int().to(HERE).as_strided(shape, strides, offset)


def launch(engine: Pointwise, x: Tensor, y: Tensor, outs: list[Tensor]) -> None:
    plan = Plan("x", "y", out=tuple(outs))
    engine.launch(plan, (x, y), outs, [Code("out0"), Code("out1")], Dtypes(torch.int32, torch.int32, torch.int32))
    plan.build("out0")(x, y, *outs)


def check(x: Tensor, y: Tensor, outs: list[Tensor]) -> None:
    """Index by index, on the CPU."""
    a, b = x.cpu(), y.cpu()
    got = [t.cpu() for t in outs]
    for index in itertools.product(*map(range, x.shape)):
        i, j = a[index].item(), b[index].item()
        assert [t[index].item() for t in got] == [i * 1000 + j, i - j], index


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("mode", [None, Mode.LINE, Mode.TILE], ids=["chosen", "line", "tile"])
def test_every_layout_is_walked_as_its_indices_say(seed: int, mode: Mode | None) -> None:
    dice = random.Random(seed)
    shape = tuple(dice.choice((1, 2, 3, 5, 16)) for _ in range(dice.randrange(1, 5)))
    while len(shape) > 1 and torch.Size(shape).numel() > 200:
        shape = shape[1:]
    x, y = (random_operand(shape, dice, expands=True) for _ in "xy")
    outs = [random_operand(shape, dice, expands=False).fill_(-1) for _ in "ab"]
    around = [t.as_strided((t.untyped_storage().nbytes() // 4,), (1,), 0) for t in outs]
    before = [t.clone() for t in around]
    launch(Pointwise(**{**vars(ENGINE), "mode": mode}), x, y, outs)
    check(x, y, outs)
    for whole, old, out in zip(around, before, outs, strict=True):  # nothing beside the result was written
        out.fill_(-1)
        assert torch.equal(whole, old)


def test_a_flat_walk_that_ends_anywhere() -> None:
    for n in (1 << 16, (1 << 16) + 5, 3):
        x, y = (torch.arange(n, dtype=torch.int32, device=HERE) % m for m in (997, 31))
        room = torch.full((n + 8,), -1, dtype=torch.int32, device=HERE)
        outs = [room[:n], torch.empty_like(x)]
        launch(ENGINE, x, y, outs)
        assert torch.equal(outs[0], x * 1000 + y) and torch.equal(outs[1], x - y) and bool((room[n:] == -1).all())


def test_sizes_and_strides_of_sixteens_are_passed_divided() -> None:
    x, y = (torch.randint(0, 999, (48, 32), dtype=torch.int32, device=HERE) for _ in "xy")
    outs = [torch.empty(32, 48, dtype=torch.int32, device=HERE) for _ in "ab"]
    strides = [x.t().stride(), outs[0].stride()]
    assert walk((32, 48), strides, 4).pattern.sixteens and not walk((32, 47), strides, 4).pattern.sixteens
    launch(ENGINE, x.t(), y.t(), outs)
    assert torch.equal(outs[0], x.t() * 1000 + y.t())


def test_64_bit_indices_are_chosen_by_extent() -> None:
    assert not walk((2**30,), [(1,)], 1).pattern.wide
    assert walk((2**31 + 5,), [(1,)], 1).pattern.wide
    assert walk((2, 3), [(2**30, 2**30), (3, 1)], 1).pattern.wide  # few elements, far apart
    assert walk((2**31 - 1,), [(1,)], 1).pattern.wide  # the last block's lanes would pass 2**31


@pytest.mark.parametrize("shape, strides, mode", [
    ((64, 64), [(64, 1), (64, 1)], Mode.FLAT),
    ((64, 64), [(1, 64), (1, 64)], Mode.FLAT),
    ((2, 8, 4, 4), [(128, 1, 32, 8), (128, 1, 32, 8)], Mode.FLAT),
    ((64, 64), [(1, 64), (64, 1)], Mode.TILE),
    ((64, 64), [(0, 1), (64, 1)], Mode.TILE),
    ((64,), [(2,), (1,)], Mode.LINE),
    ((1, 64, 1), [(7, 1, 3), (64, 1, 1)], Mode.FLAT),
    ((1000, 3, 3), [(9, 1, 3), (9, 3, 1)], Mode.LINE if HERE.type == "cuda" else None),
])  # fmt: skip
def test_the_walk_follows_the_layout(shape: tuple, strides: list, mode: Mode | None) -> None:
    assert mode in (None, walk(shape, strides, 4).pattern.mode)
