"""Cross entropy in one pass over the logits, and its gradient in another.

The loss of a row is the sum over classes of q * (lse - x), with lse the logarithm of the sum of exp(x) and q what the
target says of each class: the smoothed one-hot target or the given probabilities, times the class's weight.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gems_ops.loss.nll import weigh
from gems_ops.rows.access import row_offsets, widen
from gems_runtime import LibEntry


@triton.jit
def _class_weight(weight_ptr, classes, weight_step, n_classes):
    """[1, N], or 1."""
    if weight_ptr is None:
        return 1.0
    else:
        return widen(tl.load(weight_ptr + classes * weight_step, mask=classes < n_classes, other=0.0))[None, :]


@triton.jit
def _spread(
    p_ptr, weight_ptr, p_rows, p_class, classes, ok, counts, weight_step, n_classes, smoothing, PROBABILITIES: tl.constexpr
):
    """q [R, N] but for what a class index adds at its class."""
    q = smoothing / n_classes
    if PROBABILITIES:
        q += (1 - smoothing) * widen(tl.load(p_ptr + p_rows[:, None] + classes[None, :] * p_class, mask=ok, other=0.0))
    q = q * _class_weight(weight_ptr, classes, weight_step, n_classes)
    return tl.where(ok & counts[:, None], q, 0.0)


@LibEntry
@triton.jit(debug=True)  # without it device_assert checks nothing
def _cross_entropy_kernel(
    x_ptr, target_ptr, weight_ptr, loss_ptr, total_ptr, lse_ptr, mass_ptr,
    n_rows, n_classes, inner, x_outer, x_inner, x_class, t_outer, t_inner, t_class, weight_step, ignore_index, smoothing,
    PROBABILITIES: tl.constexpr, SPREAD: tl.constexpr, EACH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The rows' losses (EACH) or their sum, the sum of the weights that counted, and for the gradient lse and the sum of q."""
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    # int64: row * stride passes 2**31
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_ok = rows < n_rows
    x_rows = row_offsets(rows, inner, x_outer, x_inner)
    t_rows = row_offsets(rows, inner, t_outer, t_inner)
    if PROBABILITIES:
        counts = row_ok
        weight = tl.zeros((BLOCK_R,), DTYPE)
    else:
        target, counts, weight = weigh(target_ptr, weight_ptr, rows, row_ok, n_classes, ignore_index, t_inner, weight_step, DTYPE)

    high = tl.full((BLOCK_R,), float("-inf"), DTYPE)
    sums = tl.zeros((BLOCK_R, BLOCK_C), DTYPE)
    dots, masses = tl.zeros((BLOCK_R, BLOCK_C), DTYPE), tl.zeros((BLOCK_R, BLOCK_C), DTYPE)
    for first in range(0, n_classes, BLOCK_C):
        classes = first + tl.arange(0, BLOCK_C).to(tl.int64)
        ok = row_ok[:, None] & (classes < n_classes)[None, :]
        x = widen(tl.load(x_ptr + x_rows[:, None] + classes[None, :] * x_class, mask=ok, other=float("-inf")))
        higher = tl.maximum(high, tl.max(x, axis=1))
        # While only -inf was seen, its exponentials count as 0.
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        # One sum for each column of the tile: adding them up waits until after the loop.
        sums = sums * tl.exp(high - finite)[:, None] + tl.exp(x - finite[:, None])
        high = higher
        if SPREAD:
            q = _spread(
                target_ptr, weight_ptr, t_rows, t_class, classes, ok, counts, weight_step, n_classes, smoothing, PROBABILITIES
            )
            dots += q * tl.where(ok, x, 0.0)
            masses += q
    lse = high + tl.log(tl.sum(sums, axis=1))

    mass = tl.zeros((BLOCK_R,), DTYPE)
    loss = tl.zeros((BLOCK_R,), DTYPE)
    if SPREAD:
        mass += tl.sum(masses, axis=1)
        loss += mass * lse - tl.sum(dots, axis=1)
    if not PROBABILITIES:
        x = widen(tl.load(x_ptr + x_rows + target * x_class, mask=counts, other=0.0))
        loss += (1 - smoothing) * weight * (lse - x)
        mass += (1 - smoothing) * weight
    loss = tl.where(counts, loss, 0.0)
    tl.store(lse_ptr + rows, lse, mask=row_ok)
    tl.store(mass_ptr + rows, mass, mask=row_ok)
    if EACH:
        tl.store(loss_ptr + rows, loss.to(loss_ptr.dtype.element_ty), mask=row_ok)
        if tl.program_id(0) == 0:
            tl.store(total_ptr, 0.0)
    else:
        tl.store(loss_ptr + tl.program_id(0), tl.sum(loss, axis=0))
        tl.store(total_ptr + tl.program_id(0), tl.sum(weight, axis=0))


@LibEntry
@triton.jit
def _cross_entropy_gradient_kernel(
    grad_ptr, x_ptr, target_ptr, weight_ptr, lse_ptr, mass_ptr, total_ptr, dx_ptr,
    n_rows, n_classes, inner, grad_step, x_outer, x_inner, x_class, t_outer, t_inner, t_class, dx_outer, dx_inner, dx_class,
    weight_step, ignore_index, smoothing,
    PROBABILITIES: tl.constexpr, SPREAD: tl.constexpr, MEAN: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """grad * (softmax(x) * sum of q - q)."""
    bands = tl.cdiv(n_classes, BLOCK_C)
    rows = (tl.program_id(0) // bands).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    classes = (tl.program_id(0) % bands).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    row_ok = rows < n_rows
    ok = row_ok[:, None] & (classes < n_classes)[None, :]
    x_at = row_offsets(rows, inner, x_outer, x_inner)[:, None] + classes[None, :] * x_class
    x = widen(tl.load(x_ptr + x_at, mask=ok, other=0.0))
    lse = tl.load(lse_ptr + rows, mask=row_ok, other=0.0)
    mass = tl.load(mass_ptr + rows, mask=row_ok, other=0.0)
    grad = widen(tl.load(grad_ptr + rows * grad_step, mask=row_ok, other=0.0))
    if MEAN:
        grad = grad / tl.load(total_ptr)
    dx = tl.exp(x - lse[:, None]) * mass[:, None]
    counts = row_ok
    t_rows = row_offsets(rows, inner, t_outer, t_inner)
    if not PROBABILITIES:
        target = tl.load(target_ptr + rows * t_inner, mask=row_ok, other=0).to(tl.int64)
        counts = row_ok & (target != ignore_index)
        weight = counts.to(x.dtype)
        if weight_ptr is not None:
            weight = widen(tl.load(weight_ptr + target * weight_step, mask=counts, other=0.0))
        hit = counts[:, None] & (target[:, None] == classes[None, :])
        dx -= tl.where(hit, ((1 - smoothing) * weight)[:, None], 0.0)
    if SPREAD:
        dx -= _spread(
            target_ptr, weight_ptr, t_rows, t_class, classes, ok, counts, weight_step, n_classes, smoothing, PROBABILITIES
        )
    dx_at = row_offsets(rows, inner, dx_outer, dx_inner)[:, None] + classes[None, :] * dx_class
    tl.store(dx_ptr + dx_at, (dx * grad[:, None]).to(dx_ptr.dtype.element_ty), mask=ok)
