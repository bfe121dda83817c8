"""Copies from one strided layout to another, where each index of the result says by a rule of its dimension which element it gets.

Repeating and flipping are a matter of strides alone; rolling and padding map the index of a dimension. One generated
kernel serves them all: tiles of rows and columns, the columns along the result's innermost dimension.
"""

from __future__ import annotations

import enum
import linecache
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
import triton
import triton.language as tl

from gems_ops.layout import INT32_EXTENT
from gems_ops.op import Declined
from gems_ops.plan import Code, Plan
from gems_runtime import LibEntry, device

TILE = 4096  # elements of a program: 16 per thread of 8 warps
INTERPRETER_TILE = 1 << 16  # the interpreter pays per program, not per element


class Rule(enum.Enum):
    """Which index of the source an index i of the result takes, for a source of n indices and a shift."""

    SAME = "{i}"
    ROLL = "tl.where({i} < {shift}, {i} + ({n} - {shift}), {i} - {shift})"
    INSIDE = "{i} - {shift}"  # and the fill value where that is no index of the source
    CLAMP = "tl.minimum(tl.maximum({i} - {shift}, 0), {n} - 1)"
    REFLECT = "{n} - 1 - tl.abs({n} - 1 - tl.abs({i} - {shift}))"


@dataclass(frozen=True)
class Dim:
    """One dimension of a copy."""

    size: int  # of the result
    x_stride: int
    out_stride: int
    rule: Rule = Rule.SAME
    n: int = 0  # of the source, where the rule asks
    shift: int = 0


@dataclass(frozen=True)
class Variant:
    """What the text of a kernel depends on: the rules, outermost first; columns come last."""

    rules: tuple[Rule, ...]
    wide: bool  # 64-bit offsets


def merged(dims: Sequence[Dim]) -> list[Dim]:
    """The fewest dimensions that walk alike, by falling stride of the result."""
    found: list[Dim] = []
    for d in sorted((d for d in dims if d.size != 1 or d.rule is not Rule.SAME), key=lambda d: -abs(d.out_stride)):
        last = found[-1] if found else None
        if (
            last and last.rule is d.rule is Rule.SAME
            and last.x_stride == d.x_stride * d.size and last.out_stride == d.out_stride * d.size
        ):  # fmt: skip
            found[-1] = Dim(last.size * d.size, d.x_stride, d.out_stride)
        else:
            found.append(d)
    if not found or found[-1].rule is not Rule.SAME and found[-1].out_stride != 1:
        found.append(Dim(1, 0, 0))
    return found


def source(v: Variant) -> str:
    """The kernel's text."""
    names = [f"{d}" for d in range(len(v.rules) - 1)] + ["col"]
    mapped = [(name, rule) for name, rule in zip(names, v.rules, strict=True) if rule is not Rule.SAME]
    fills = any(rule is Rule.INSIDE for _, rule in mapped)
    parameters = ["x_ptr", "out_ptr", "x_at", "out_at", "n_rows", "n_cols", *(f"size_{n}" for n in names[1:-1])]
    parameters += [f"{t}_stride_{n}" for n in names for t in ("x", "out")]
    parameters += [f"{p}_{n}" for n, _ in mapped for p in ("n", "shift")] + ["value"] * fills
    lines = [
        "col_blocks = tl.cdiv(n_cols, BLOCK_COLS)",
        f"pid = tl.program_id(0){'.to(tl.int64)' if v.wide else ''}",
        "row = pid // col_blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)",
        "i_col = pid % col_blocks * BLOCK_COLS + tl.arange(0, BLOCK_COLS)",
        "inside = (row < n_rows)[:, None] & (i_col < n_cols)[None, :]",
        "rest = row",
    ]
    for n in reversed(names[1:-1]):
        lines += [f"i_{n} = rest % size_{n}", f"rest = rest // size_{n}"]
    lines += ["i_0 = rest"] if len(names) > 1 else []
    known = []
    for name, rule in zip(names, v.rules, strict=True):
        lines.append(f"j_{name} = " + rule.value.format(i=f"i_{name}", n=f"n_{name}", shift=f"shift_{name}"))
        if rule is Rule.INSIDE:
            known.append(f"((j_{name} >= 0) & (j_{name} < n_{name})){'[None, :]' if name == 'col' else '[:, None]'}")
    for t, i in (("x", "j"), ("out", "i")):
        rows = " + ".join(f"{i}_{n} * {t}_stride_{n}" for n in names[:-1]) or "row * 0"
        lines.append(f"{t}_offset = ({rows})[:, None] + ({i}_col * {t}_stride_col)[None, :]")
    load = "inside" if not known else f"inside & {' & '.join(known)}"
    lines += [f"known = {load}", "x = tl.load(x_ptr + x_at + x_offset, mask=known, other=0)", "x = cast(x, out_ptr.dtype.element_ty)"]
    if fills:
        lines.append("x = tl.where(known, x, bits(value, out_ptr.dtype.element_ty))")
    lines.append("tl.store(out_ptr + out_at + out_offset, x, mask=inside)")
    text = "".join(f"    {line}\n" for line in lines)
    return f"def kernel({', '.join(parameters)}, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):\n{text}"


@triton.jit
def cast(x, dtype: tl.constexpr):
    """x as another type. Integers become bfloat16 by way of float32, as on a GPU; the interpreter has no other way."""
    if dtype == tl.bfloat16 and x.dtype.is_int():
        return x.to(tl.float32).to(dtype)
    else:
        return x.to(dtype)


@triton.jit
def bits(value, dtype: tl.constexpr):
    """A number of any type from its bits, which an integer carries."""
    if dtype.primitive_bitwidth == 64:
        return value.to(tl.int64).to(dtype, bitcast=True)
    elif dtype.primitive_bitwidth == 32:
        return value.to(tl.int32).to(dtype, bitcast=True)
    elif dtype.primitive_bitwidth == 16:
        return value.to(tl.int16).to(dtype, bitcast=True)
    elif dtype.is_int1():
        return value != 0
    else:
        return value.to(tl.int8).to(dtype, bitcast=True)


def bits_of(value: bool | int | float, dtype: torch.dtype) -> int:
    """The bits of a number as an element of this dtype. Declines one that it cannot hold."""
    if dtype == torch.bool:
        return int(bool(value))
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        if not limits.min <= value <= limits.max or int(value) != value:  # nan is in no limits
            raise Declined(f"{value} as {dtype}")
    elif torch.finfo(dtype).max < abs(value) < float("inf"):
        raise Declined(f"{value} overflows {dtype}")
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    return torch.tensor([value], dtype=dtype).view(integer).item()


@lru_cache(maxsize=None)
def kernel(v: Variant) -> LibEntry:
    """The launchable kernel of a variant. Its text can be read in tracebacks and by inspect."""
    name = f"_walk_{'_'.join(r.name.lower() for r in v.rules)}{'_wide' if v.wide else ''}_kernel"
    text = source(v).replace("def kernel(", f"def {name}(", 1)
    file = f"<gems {__name__}.{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, object] = {"tl": tl, "bits": bits, "cast": cast, "__name__": __name__}
    exec(compile(text, file, "exec"), scope)  # noqa: S102  our own text
    parameters = text[text.index("(") + 1 : text.index(")")].split(", ")
    plain = [p for p in parameters if p == "value" or p.startswith(("n_", "shift_", "size_")) and p != "n_cols"]
    return LibEntry(triton.jit(scope[name], do_not_specialize=plain))


def plan_walk(
    plan: Plan, x: Code, out: Code, dims: Sequence[Dim], x_at: int = 0, out_at: int = 0, value: Code | int | None = None
) -> None:
    """Add a launch that copies x to out along `dims`; `value` are the bits of the fill value where a rule needs one."""
    dims = merged(dims)
    reach = max(sum(abs(stride(d)) * d.size for d in dims) for stride in (lambda d: d.x_stride, lambda d: d.out_stride))
    v = Variant(tuple(d.rule for d in dims), reach > INT32_EXTENT or prod(d.size for d in dims) > INT32_EXTENT)
    n_rows, n_cols = prod(d.size for d in dims[:-1]), dims[-1].size
    tile = INTERPRETER_TILE if device.interpreted() else TILE
    block_cols = min(triton.next_power_of_2(n_cols), tile)
    block_rows = min(triton.next_power_of_2(n_rows), tile // block_cols)
    mapped = [n for d in dims if d.rule is not Rule.SAME for n in (d.n, d.shift)]
    fills = [value] if any(d.rule is Rule.INSIDE for d in dims) else []
    plan.launch(
        kernel(v), (triton.cdiv(n_rows, block_rows) * triton.cdiv(n_cols, block_cols),), x, out, x_at, out_at,
        n_rows, n_cols, *(d.size for d in dims[1:-1]), *(s for d in dims for s in (d.x_stride, d.out_stride)),
        *mapped, *fills, block_rows, block_cols, num_warps=max(1, min(8, block_rows * block_cols // 512)),
    )  # fmt: skip
