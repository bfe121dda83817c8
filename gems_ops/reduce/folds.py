"""The arithmetic of reductions: what an element becomes, how two states combine, how a tile folds, what is written.

A state is up to three values; those that a reduction does not use are the scalar 0, which the compiler removes.

| HOW | state |
| --- | --- |
| add, mul, max, min | the value |
| both | minimum, maximum |
| argmax, argmin | the value, its position: of the first NaN if there is one, else of the first of equals |
| logsum | the largest element, the sum of exp(element - largest) |
| distances | sums of distances from an origin and of their squares; leaves the state of moments |
| moments | mean, sum of squared distances from it, count |
"""

import triton
import triton.language as tl

from gems_runtime import device

_NAN = tl.constexpr(tl.PropagateNan.ALL)
# The interpreter folds with a function of ours one element at a time.
_INTERPRETED = tl.constexpr(device.interpreted())


@triton.jit
def lowest(ACC: tl.constexpr):
    """What no element is below."""
    if ACC.is_floating():
        return tl.full((), float("-inf"), ACC)
    elif ACC == tl.int32:
        return tl.full((), -(2**31), ACC)
    else:
        return tl.full((), -(2**63), ACC)


@triton.jit
def highest(ACC: tl.constexpr):
    """What no element is above."""
    if ACC.is_floating():
        return tl.full((), float("inf"), ACC)
    elif ACC == tl.int32:
        return tl.full((), 2**31 - 1, ACC)
    else:
        return tl.full((), 2**63 - 1, ACC)


@triton.jit
def identity(ACC: tl.constexpr, HOW: tl.constexpr):
    """The first value of a state that changes no result."""
    if HOW == "max" or HOW == "argmax" or HOW == "logsum":
        return lowest(ACC)
    elif HOW == "min" or HOW == "argmin" or HOW == "both":
        return highest(ACC)
    elif HOW == "mul":
        return tl.full((), 1, ACC)
    else:
        return tl.full((), 0, ACC)


@triton.jit
def start(BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, HOW: tl.constexpr):
    """The states of a tile before its first element."""
    a = tl.zeros((BLOCK_M, BLOCK_N), ACC) + identity(ACC, HOW)
    none = tl.full((), 0, tl.int32)
    if HOW == "both":
        return a, tl.zeros((BLOCK_M, BLOCK_N), ACC) + lowest(ACC), none
    elif HOW == "distances":
        return a, tl.zeros((BLOCK_M, BLOCK_N), ACC), none
    elif HOW == "argmax" or HOW == "argmin":
        # Where no element beats the identity, all equal it and the first one counts.
        return a, tl.zeros((BLOCK_M, BLOCK_N), INDEX), none
    elif HOW == "logsum":
        return a, tl.zeros((BLOCK_M, BLOCK_N), ACC), none
    elif HOW == "moments":
        return a, tl.zeros((BLOCK_M, BLOCK_N), ACC), tl.zeros((BLOCK_M, BLOCK_N), ACC)
    else:
        return a, none, none


@triton.jit
def element(x, mask, position, parameter, EACH: tl.constexpr, ACC: tl.constexpr, HOW: tl.constexpr):
    """The state of loaded elements, the identity where they are masked."""
    if EACH == "nonzero" or EACH == "one":
        x = (x != 0).to(ACC)
    else:
        x = x.to(ACC)
    if EACH == "abs" or EACH == "power":
        x = tl.abs(x)
    if EACH == "square":
        x = x * x
    elif EACH == "power":
        x = tl.exp2(parameter * tl.log2(x))
    elif EACH == "number":
        x = tl.where(x == x, x, 0)
    elif EACH == "distance":
        x = tl.where(mask, x - parameter, 0)
    if EACH == "power" or HOW != "add" and HOW != "moments" and HOW != "distances":
        x = tl.where(mask, x, identity(ACC, "add" if EACH == "power" else HOW))
    none = tl.full((), 0, tl.int32)
    if HOW == "both":
        return x, tl.where(mask, x, lowest(ACC)), none
    elif HOW == "argmax" or HOW == "argmin":
        return x, position, none
    elif HOW == "distances":
        return x, x * x, none
    elif HOW == "logsum" or HOW == "moments":
        one = mask.to(ACC)
        return x, one if HOW == "logsum" else tl.zeros_like(x), one
    else:
        return x, none, none


@triton.jit
def times(a, x):
    return a * x


@triton.jit
def logsum(a, b, x, y):
    """Two states of "logsum" combined. One of the two exponentials is exp(0)."""
    scale = tl.where(x == a, 1.0, tl.exp(-tl.abs(x - a)))
    return tl.where(x > a, x, a), tl.where(x > a, b * scale + y, b + y * scale)


@triton.jit
def combine(a, b, c, x, y, z, HOW: tl.constexpr):
    """The states (a, b, c) and later ones (x, y, z), element by element."""
    if HOW == "max":
        return tl.maximum(a, x, propagate_nan=_NAN), b, c
    elif HOW == "min":
        return tl.minimum(a, x, propagate_nan=_NAN), b, c
    elif HOW == "both":
        return tl.minimum(a, x, propagate_nan=_NAN), tl.maximum(b, y, propagate_nan=_NAN), c
    elif HOW == "argmax":
        # Not `x > a`: that is false for nan.
        better = (a == a) & ((x > a) | (x != x))
        return tl.where(better, x, a), tl.where(better, y, b), c
    elif HOW == "argmin":
        better = (a == a) & ((x < a) | (x != x))
        return tl.where(better, x, a), tl.where(better, y, b), c
    elif HOW == "logsum":
        a, b = logsum(a, b, x, y)
        return a, b, c
    elif HOW == "distances":
        return a + x, b + y, c
    elif HOW == "moments":
        n = c + z
        gap = tl.where(z > 0, x - a, 0)
        step = gap * (z / tl.maximum(n, 1))
        return a + step, b + y + gap * step * c, n
    elif HOW == "mul":
        return a * x, b, c
    else:
        tl.static_assert(HOW == "add", "unknown reduction")
        return a + x, b, c


@triton.jit
def _larger(a, x):
    return tl.maximum(a, x, propagate_nan=_NAN)


@triton.jit
def _smaller(a, x):
    return tl.minimum(a, x, propagate_nan=_NAN)


@triton.jit
def extreme(a, MAX: tl.constexpr):
    """The largest or smallest along axis 1, nan if there is one: tl.max and tl.min drop it."""
    if not _INTERPRETED:
        return tl.reduce(a, 1, _larger if MAX else _smaller)
    result = tl.max(a, 1) if MAX else tl.min(a, 1)
    if a.dtype.is_floating():
        has_nan = tl.max((a != a).to(tl.int32), 1)
        result = tl.where(has_nan > 0, float("nan"), result)
    return result


@triton.jit
def total(a):
    """Sums along axis 1. Those of one long row add up in float64 what each thread has of four neighbours in float32.

    With float32 alone the sum of 1000 x 3001 random numbers is off by 2.0e-4, so by 1.0e-4 (mean of 24 draws, emulated).
    """
    if a.shape[0] == 1 and a.shape[1] >= 64 and a.dtype == tl.float32:
        if a.shape[1] >= 512:
            a = tl.sum(tl.reshape(a, (1, a.shape[1] // 4, 4)), 2)
        return tl.sum(a.to(tl.float64), 1).to(tl.float32)
    return tl.sum(a, 1)


@triton.jit
def fold(a, b, c, HOW: tl.constexpr):
    """[BLOCK_M, BLOCK_N] to [BLOCK_M]."""
    if HOW == "max" or HOW == "min":
        return extreme(a, HOW == "max"), b, c
    elif HOW == "both":
        return extreme(a, False), extreme(b, True), c
    elif HOW == "argmax" or HOW == "argmin":
        best = extreme(a, HOW == "argmax")
        is_best = a == best[:, None]
        if a.dtype.is_floating():
            is_best = is_best | ((best != best)[:, None] & (a != a))
        return best, tl.min(tl.where(is_best, b, highest(b.dtype)), 1), c
    elif HOW == "logsum":
        high = tl.max(a, 1)
        scale = tl.where(a == high[:, None], 1.0, tl.exp(a - high[:, None]))
        return high, tl.sum(b * scale, 1), c
    elif HOW == "distances":
        return tl.sum(a, 1), tl.sum(b, 1), c
    elif HOW == "moments":
        n = tl.sum(c, 1)
        # means are taken from one of them: equal ones have exactly that mean
        pivot = tl.max(tl.where(c > 0, a, lowest(a.dtype)), 1)
        mean = pivot + tl.sum(tl.where(c > 0, a - pivot[:, None], 0) * (c * (1 / n)[:, None]), 1)
        gap = tl.where(c > 0, a - mean[:, None], 0)
        squares = tl.sum(b + c * gap * gap, 1)
        # as Welford's update has it: infinite elements leave no mean
        return tl.where(squares == squares, mean, float("nan")), squares, n
    elif HOW == "mul":
        return tl.reduce(a, 1, times), b, c
    else:
        return total(a), b, c


@triton.jit
def origin_of(x, mask, pivot, count):
    """The mean of a tile's rows, [BLOCK_M, 1]: near enough to that of all elements that their squares do not cancel.

    Taken from an element of each row, the `pivot`: equal elements have exactly that mean.
    """
    return pivot + tl.sum(tl.where(mask, (x - pivot) * (1 / count), 0), 1)[:, None]


@triton.jit
def moments_of(distance, squares, origin, count):
    """The state of moments of folded distances, all [BLOCK_M]."""
    gap = distance / count
    squares -= distance * gap
    squares = tl.where(squares < 0, 0, squares)  # not tl.maximum, which drops nan
    # as Welford's update has it: infinite elements leave no mean
    return tl.where(squares == squares, origin + gap, float("nan")), squares, count


@triton.jit
def _root(x):
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def finished(a, b, c, parameter, FINISH: tl.constexpr):
    """Two results of a folded state; the second may be unused."""
    if FINISH == "mean":
        return a / parameter, b
    elif FINISH == "root":
        return _root(a), b
    elif FINISH == "power":
        # in float64: what log2 rounds, exp2 magnifies
        return tl.exp2(tl.log2(a.to(tl.float64)) / parameter).to(a.dtype), b
    elif FINISH == "log":
        return a + tl.log(b), b
    elif FINISH == "variance":
        return b / tl.maximum(c - parameter, 0.0), a
    elif FINISH == "deviation":
        return _root(b / tl.maximum(c - parameter, 0.0)), a
    else:
        tl.static_assert(FINISH == "state", "unknown last step")
        return a, b
