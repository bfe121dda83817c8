"""apply_rotary_pos_emb: queries and keys rotated by their positions. Its gradient is the rotation by the opposite angle."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.fused.custom import CustomOp, wide
from gems_ops.layout import contiguous_strides
from gems_ops.op import FLOATS, Declined, Sample
from gems_ops.plan import Code, Plan, Planned
from gems_ops.samples import values
from gems_ops.workloads import Workload, random_like
from gems_runtime import LibEntry, device

PAIRS = 2048  # rotated at a time: (heads) x (half of a head's elements)
POSITIONS = frozenset({torch.int32, torch.int64})


@triton.jit
def _rotate_heads(
    x_ptr, out_ptr, n_heads, x_stride_head, x_stride_d, out_stride_head, out_stride_d, cos, sin, pair, n_pairs,
    INTERLEAVED: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """All heads of one token. Both elements of a pair are read before either is written: out may be x."""
    first = 2 * pair if INTERLEAVED else pair
    second = first + (1 if INTERLEAVED else n_pairs)
    for start in range(0, n_heads, HEADS):
        head = start + tl.arange(0, HEADS)
        mask = (head < n_heads)[:, None] & (pair < n_pairs)[None, :]
        x = x_ptr + (head * x_stride_head)[:, None]
        a = tl.load(x + (first * x_stride_d)[None, :], mask=mask, other=0).to(tl.float32)
        b = tl.load(x + (second * x_stride_d)[None, :], mask=mask, other=0).to(tl.float32)
        out = out_ptr + (head * out_stride_head)[:, None]
        tl.store(out + (first * out_stride_d)[None, :], a * cos[None, :] - b * sin[None, :], mask=mask)
        tl.store(out + (second * out_stride_d)[None, :], b * cos[None, :] + a * sin[None, :], mask=mask)


# debug: a position past the table stops the program, as an index out of range does in ATen (see index/lookup.py)
@LibEntry
@triton.jit(debug=True)
def _rotary_kernel(
    q_ptr, k_ptr, q_out_ptr, k_out_ptr, cos_ptr, sin_ptr, position_ptr,
    n_inner, n_positions, n_pairs, q_heads, k_heads, cos_stride, sin_stride, position_outer, position_inner,
    q_outer, q_inner, q_head, q_d, k_outer, k_inner, k_head, k_d,
    q_out_outer, q_out_inner, q_out_head, q_out_d, k_out_outer, k_out_inner, k_out_head, k_out_d,
    HAS_POSITIONS: tl.constexpr, INTERLEAVED: tl.constexpr, INVERSE: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    outer = (tl.program_id(0) // n_inner).to(tl.int64)
    inner = (tl.program_id(0) % n_inner).to(tl.int64)
    position = inner
    if HAS_POSITIONS:
        position = tl.load(position_ptr + outer * position_outer + inner * position_inner).to(tl.int64)
    tl.device_assert((position >= 0) & (position < n_positions), "apply_rotary_pos_emb: position out of range")
    pair = tl.arange(0, HALF)
    cos = tl.load(cos_ptr + position * cos_stride + pair, mask=pair < n_pairs, other=0).to(tl.float32)
    sin = tl.load(sin_ptr + position * sin_stride + pair, mask=pair < n_pairs, other=0).to(tl.float32)
    if INVERSE:
        sin = -sin
    q, q_out = q_ptr + outer * q_outer + inner * q_inner, q_out_ptr + outer * q_out_outer + inner * q_out_inner
    _rotate_heads(q, q_out, q_heads, q_head, q_d, q_out_head, q_out_d, cos, sin, pair, n_pairs, INTERLEAVED, HEADS)
    k, k_out = k_ptr + outer * k_outer + inner * k_inner, k_out_ptr + outer * k_out_outer + inner * k_out_inner
    _rotate_heads(k, k_out, k_heads, k_head, k_d, k_out_head, k_out_d, cos, sin, pair, n_pairs, INTERLEAVED, HEADS)


def _strides(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides over (outer tokens, inner tokens, heads, elements)."""
    return (0,) * (4 - len(strides)) + tuple(strides)


def _check_positions(position_ids: Tensor, n: int) -> None:
    """When interpreted the device cannot be stopped: there decline a position for which indexing raises."""
    if not bool(((position_ids >= 0) & (position_ids < n)).all()):
        raise Declined("a position is out of range: indexing raises")


def _launch(
    plan: Plan, q: Tensor, k: Tensor, outs: tuple[Code, Code], out_strides: tuple[tuple[int, ...], ...], cos: Tensor, sin: Tensor,
    position_ids: Tensor | None, interleaved: bool, inverse: bool,
) -> None:  # fmt: skip
    if not 2 <= q.dim() <= 4:
        raise Declined(f"q has {q.dim()} dimensions, the kernel takes 2 to 4")
    if cos.stride(1) != 1 or sin.stride(1) != 1:
        raise Declined("rows of cos and sin are not dense")
    lead, (n_positions, half) = q.shape[:-2], cos.shape
    n_tokens = q.numel() // (q.shape[-1] * q.shape[-2])
    block_half = triton.next_power_of_2(half)
    heads = max(1, min(triton.next_power_of_2(q.shape[-2]), PAIRS // block_half))
    position_strides = (0, 0) if position_ids is None else ((0, 0) + position_ids.stride())[-2:]
    positions = None if position_ids is None else Code("position_ids")
    strides = (*position_strides, *(s for t in (q.stride(), k.stride(), *out_strides) for s in _strides(t)))
    plan.launch(
        _rotary_kernel, (n_tokens,),
        Code("q"), Code("k"), *outs, Code("cos"), Code("sin"), positions, lead[-1] if lead else 1, n_positions, half,
        q.shape[-2], k.shape[-2], cos.stride(0), sin.stride(0), *strides,
        positions is not None, interleaved, inverse, heads, block_half,
        sanitize_overflow=False,
    )  # fmt: skip


def _begin(*parameters: str, position_ids: Tensor | None, n: int) -> Plan:
    plan = Plan("q", "k", "cos", "sin", "position_ids", *parameters)
    if device.interpreted() and position_ids is not None:
        plan.do("{check}(position_ids, {n})", check=_check_positions, n=n)
    return plan


def _plan(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None, interleaved: bool, inverse: bool
) -> Planned:
    plan = _begin("_interleaved", "_inverse", position_ids=position_ids, n=len(cos))
    outs = plan.empty("q_out", q.shape, q.dtype, q.device), plan.empty("k_out", k.shape, k.dtype, k.device)
    strides = contiguous_strides(q.shape), contiguous_strides(k.shape)
    _launch(plan, q, k, outs, strides, cos, sin, position_ids, interleaved, inverse)
    return plan.build("q_out, k_out")


def _plan_in_place(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None, interleaved: bool) -> Planned:
    plan = _begin("_interleaved", position_ids=position_ids, n=len(cos))
    _launch(plan, q, k, (Code("q"), Code("k")), (q.stride(), k.stride()), cos, sin, position_ids, interleaved, False)
    return plan.build("None")


def _formula(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None = None, interleaved: bool = False, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    if position_ids is None:
        position_ids = torch.arange(q.shape[1], device=q.device).expand(q.shape[:2])
    c, s = (wide(t)[position_ids.long()].unsqueeze(-2) for t in (cos, sin))
    s = -s if inverse else s

    def rotate(x: Tensor) -> Tensor:
        a, b = (wide(x)[..., ::2], wide(x)[..., 1::2]) if interleaved else wide(x).chunk(2, -1)
        pair = a * c - b * s, b * c + a * s
        return (torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)).to(x.dtype).contiguous()

    return rotate(q), rotate(k)


def _formula_in_place(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None, interleaved: bool) -> None:
    rotated_q, rotated_k = _formula(q, k, cos, sin, position_ids, interleaved)
    q.copy_(rotated_q)
    k.copy_(rotated_k)


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    _, _, cos, sin, position_ids, ctx.interleaved, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin, position_ids)


def _gradient(ctx: torch.autograd.function.FunctionCtx, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor | None, ...]:
    cos, sin, position_ids = ctx.saved_tensors
    dq, dk = torch.ops.gems.apply_rotary_pos_emb(grad_q, grad_k, cos, sin, position_ids, ctx.interleaved, not ctx.inverse)
    return dq, dk, None, None, None, None, None


def _tables(dtype: torch.dtype, length: int, half: int) -> tuple[Tensor, Tensor]:
    angle = torch.outer(torch.arange(length, dtype=torch.float64), 10000 ** (-torch.arange(half, dtype=torch.float64) / half))
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    cos, sin = _tables(torch.float32, 12, 4)
    q, k = values((2, 3, 5, 8), dtype), values((2, 3, 2, 8), dtype, seed=1)
    positions = torch.tensor([[0, 3, 11], [4, 4, 1]])
    yield Sample((q, k, cos, sin))
    yield Sample((q, k, cos, sin, None, True))
    yield Sample((q, k, cos.to(dtype), sin.to(dtype), positions, False))
    yield Sample((q, k, cos, sin, positions.int(), True))
    yield Sample((values((2, 5, 3, 8), dtype).transpose(1, 2), k, cos, sin, positions))
    yield Sample((q[0], k[0], cos, sin, positions[0]))
    cos, sin = _tables(torch.float32, 4, 3)
    yield Sample((values((1, 2, 1, 6), dtype), values((1, 2, 1, 6), dtype, seed=1), cos, sin))


def _bench(batch: int, length: int, q_heads: int, k_heads: int, width: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        q, k = (random_like((batch, length, heads, width), dtype, where) for heads in (q_heads, k_heads))
        return (q, k, *(t.to(where) for t in _tables(dtype, max(length, 16), width // 2))), {}

    return Workload(f"{batch}x{length}x{q_heads}+{k_heads}x{width}", make)


CustomOp(
    name="gems::apply_rotary_pos_emb_",
    schema="(Tensor(a!) q, Tensor(b!) k, Tensor cos, Tensor sin, Tensor? position_ids, bool interleaved) -> ()",
    plan=_plan_in_place,
    formula=_formula_in_place,
    fake=lambda *args: None,
    mutates=("q", "k"),
    dtypes=FLOATS,
    argument_dtypes={"position_ids": POSITIONS},
).define()


_ROTATED = CustomOp(
    name="gems::apply_rotary_pos_emb",
    schema=(
        "(Tensor q, Tensor k, Tensor cos, Tensor sin, Tensor? position_ids=None, bool interleaved=False, bool inverse=False)"
        " -> (Tensor, Tensor)"
    ),
    plan=_plan,
    formula=_formula,
    fake=lambda q, k, *args: (q.new_empty(q.shape), k.new_empty(k.shape)),
    save=_save,
    gradient=_gradient,
    dtypes=FLOATS,
    argument_dtypes={"position_ids": POSITIONS},
    samples=_samples,
    bench=(_bench(4, 4096, 32, 8, 128), _bench(1, 1, 32, 32, 128)),
).define()


@_ROTATED.declare()
def apply_rotary_pos_emb(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    position_ids: Tensor | None = None,
    rotary_interleaved: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """q (..., heads, d) and k rotated by the angles whose cos and sin (positions, d / 2) are given.

    A token's position is its place in dimension 1 of q, or position_ids, which has the shape of q without its last two
    dimensions. Pairs are the two halves of a head, or neighbours if `rotary_interleaved`.
    """
    _check(q, k, cos, sin, position_ids)
    if not inplace:
        return _ROTATED.call(q, k, cos, sin, position_ids, rotary_interleaved, False)
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        rotated = torch.ops.gems.apply_rotary_pos_emb(q, k, cos, sin, position_ids, rotary_interleaved, False)
        return q.copy_(rotated[0]), k.copy_(rotated[1])
    torch.ops.gems.apply_rotary_pos_emb_(q, k, cos, sin, position_ids, rotary_interleaved)
    return q, k


def _check(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None) -> None:
    """Raise ValueError for tensors that do not belong together."""
    half = cos.shape[-1]
    if q.shape[-1] != k.shape[-1] or q.shape[-1] != 2 * half or q.shape[:-2] != k.shape[:-2] or cos.shape != sin.shape or cos.dim() != 2:
        raise ValueError(
            f"q {tuple(q.shape)} and k {tuple(k.shape)} must be (..., heads, d) over the same tokens, "
            f"cos {tuple(cos.shape)} and sin {tuple(sin.shape)} (positions, d / 2)"
        )
    if position_ids is None and (q.dim() != 4 or q.shape[1] > cos.shape[0]):
        raise ValueError(f"without position_ids q must be (batch, tokens <= {cos.shape[0]}, heads, d); it is {tuple(q.shape)}")
    if position_ids is not None and position_ids.shape != q.shape[:-2]:
        raise ValueError(f"position_ids {tuple(position_ids.shape)} must have the shape {tuple(q.shape[:-2])}: one for each token of q")
