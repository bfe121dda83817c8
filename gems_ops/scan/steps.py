"""The arithmetic of scans. States are those of reductions, but of equal elements and of nans the last one counts.

HOW is add, mul, logsum, or latest_max and latest_min for an extreme element and its position.
"""

import triton
import triton.language as tl

from gems_ops.reduce import folds


@triton.jit
def add(a, x):
    return a + x


@triton.jit
def latest_max(a, i, x, j):
    later = (x != x) | ((a == a) & (x >= a))
    return tl.where(later, x, a), tl.where(later, j, i)


@triton.jit
def latest_min(a, i, x, j):
    later = (x != x) | ((a == a) & (x <= a))
    return tl.where(later, x, a), tl.where(later, j, i)


@triton.jit
def identity(ACC: tl.constexpr, HOW: tl.constexpr):
    """The first value of a state that changes no result."""
    if HOW == "latest_max":
        return folds.lowest(ACC)
    elif HOW == "latest_min":
        return folds.highest(ACC)
    else:
        return folds.identity(ACC, HOW)


@triton.jit
def element(x, ok, position, ACC: tl.constexpr, HOW: tl.constexpr):
    """The states of loaded elements [R, N], identities where they are not ok."""
    x = tl.where(ok, x.to(ACC), identity(ACC, HOW))
    if HOW == "latest_max" or HOW == "latest_min":
        return x, tl.zeros(x.shape, position.dtype) + position
    elif HOW == "logsum":
        return x, tl.zeros(x.shape, ACC) + ok.to(ACC)
    else:
        return x, tl.full((), 0, tl.int32)


@triton.jit
def combine(a, b, x, y, HOW: tl.constexpr):
    """States (a, b) and later ones (x, y), element by element."""
    if HOW == "latest_max":
        return latest_max(a, b, x, y)
    elif HOW == "latest_min":
        return latest_min(a, b, x, y)
    else:
        x, y, _ = folds.combine(a, b, 0, x, y, 0, HOW)
        return x, y


@triton.jit
def scanned(x, y, HOW: tl.constexpr):
    """Every state combined with all before it, along axis 1."""
    if HOW == "add":
        return tl.associative_scan(x, 1, add), y
    elif HOW == "mul":
        return tl.associative_scan(x, 1, folds.times), y
    elif HOW == "latest_max":
        return tl.associative_scan((x, y), 1, latest_max)
    else:
        tl.static_assert(HOW == "latest_min", "unknown scan")
        return tl.associative_scan((x, y), 1, latest_min)


@triton.jit
def log_sums(x, y, first, a, b, ok, NEAR: tl.constexpr):
    """The states [R, N] of "logsum" scanned, after (a, b) [R, 1]. `first` [R, 1] is each row's first element here.

    As the sums up to each of exponentials of distances from the largest element, one for each, where no sum is so small
    that they round: exp(-NEAR) or more. Else, and where a row has no largest element, state by state.
    """
    high = tl.maximum(tl.max(x, 1)[:, None], a)
    near = (high - tl.maximum(first, a) <= NEAR) | (ok == 0)
    if tl.min(near.to(tl.int32)) == 1:
        y = tl.associative_scan(tl.exp(x - high), 1, add) + b * tl.exp(a - high)
        x = tl.zeros_like(x) + high
    else:
        x, y = tl.associative_scan((x, y), 1, folds.logsum)
        x, y = folds.logsum(a, b, x, y)
    return x, y


@triton.jit
def total(x, y, HOW: tl.constexpr):
    """[R, N] states, in any order, combined to [R, 1]."""
    if HOW == "latest_max" or HOW == "latest_min":
        best = folds.extreme(x, HOW == "latest_max")[:, None]
        is_best = (x == best) | ((best != best) & (x != x))
        return best, tl.max(tl.where(is_best, y, 0), 1)[:, None]
    else:
        x, y, _ = folds.fold(x, y, 0, HOW)
        return x[:, None], y[:, None] if HOW == "logsum" else y


@triton.jit
def column(x, is_it):
    """The one column of x [R, N] where `is_it` [1, N], as [R, 1]."""
    return tl.sum(tl.where(is_it, x, 0), 1)[:, None]
