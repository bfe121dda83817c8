"""Reading and writing a tensor at places that other tensors name: gather, scatter and everything between.

A call walks the shape of its indices. `dense` is what has an element for each index (the result of a gather, the
source of a scatter), `table` is what is addressed: at the walked index in most dimensions, at the named one in some.
Tiles have rows and columns, the columns along dense's innermost dimension; indices that do not depend on the column, or
not on the row, are read once for it.
"""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.index.total_order import order_of
from gems_ops.layout import INT32_EXTENT, collapse
from gems_ops.op import Declined, result_buffer
from gems_ops.plan import Code, Plan
from gems_ops.shape.walk import Dim, bits, plan_walk
from gems_runtime import LibEntry, device

TILE = 4096  # elements of a program: 16 per thread of 8 warps
INTERPRETER_TILE = 1 << 16  # the interpreter pays per program, not per element

GATHER = "tl.store(dense_ptr + dense_offset, tl.load(table_ptr + table_offset, mask=inside), mask=inside)"
SCATTER = "tl.store(table_ptr + table_offset, tl.load(dense_ptr + dense_offset, mask=inside).to(table_ptr.dtype.element_ty), mask=inside)"
_NUMBER = "(tl.full((BLOCK_ROWS, BLOCK_COLS), 0, table_ptr.dtype.element_ty) + bits(value, table_ptr.dtype.element_ty))"
FILL = f"tl.store(table_ptr + table_offset, {_NUMBER}, mask=inside)"
ADD_VALUE = f"tl.atomic_add(table_ptr + table_offset, {_NUMBER}, mask=inside, sem='relaxed')"
# The table holds orders of numbers (see reducing).
_ORDER = "order_of(tl.load(dense_ptr + dense_offset, mask=inside), {})"
MAX = f"tl.atomic_max(table_ptr + table_offset, {_ORDER.format(True)}, mask=inside, sem='relaxed')"
MIN = f"tl.atomic_min(table_ptr + table_offset, {_ORDER.format(False)}, mask=inside, sem='relaxed')"
PLACE = "tl.store(dense_ptr + dense_offset, table_offset.to(dense_ptr.dtype.element_ty), mask=inside)"  # reads no table
ADD = "tl.atomic_add(table_ptr + table_offset, tl.load(dense_ptr + dense_offset, mask=inside).to(table_ptr.dtype.element_ty), mask=inside, sem='relaxed')"
ADD_SCALED = ADD.replace(", mask=inside, sem", " * tl.cast(alpha, table_ptr.dtype.element_ty), mask=inside, sem")


_NAMES = {
    GATHER: "gather", SCATTER: "scatter", FILL: "fill", PLACE: "place", ADD: "add", ADD_SCALED: "add_scaled",
    ADD_VALUE: "add_value", MAX: "max", MIN: "min",
}  # fmt: skip


@dataclass(frozen=True)
class Index:
    """One tensor of indices, as it is walked, and the dimension of the table that it names places of."""

    code: Code
    strides: tuple[int, ...]  # for each dimension of the walk
    n: int  # places there are
    step: int  # from one to the next, in the table


@dataclass(frozen=True)
class Variant:
    """What the text of a kernel depends on."""

    action: str
    rank: int
    along: tuple[str, ...]  # for each index: "row", "col" or "both"
    wraps: bool  # negative indices count from the end
    whole: bool = False  # the only program fills the table from self, and writes what it then is to out, if there is one


@dataclass(frozen=True)
class Whole:
    """Dense tensors of the table's shape, that one program reads before and writes after it adds to the table."""

    n: int
    before: Code
    after: Code | None


# After a barrier it sees what its atomics made of the table; in L1 there may be what was stored before.
_FILL_TABLE = (
    "whole = tl.arange(0, WHOLE)",
    "tl.store(table_ptr + whole, tl.load(self_ptr + whole, mask=whole < whole_size).to(table_ptr.dtype.element_ty), mask=whole < whole_size)",
    "tl.debug_barrier()",
)
_WRITE_OUT = (
    "if out_ptr is not None:",
    "    tl.debug_barrier()",
    "    total = tl.load(table_ptr + whole, mask=whole < whole_size, cache_modifier='.cg')",
    "    tl.store(out_ptr + whole, total.to(out_ptr.dtype.element_ty), mask=whole < whole_size)",
)


def source(v: Variant) -> str:
    """The kernel's text."""
    names = [f"{d}" for d in range(v.rank - 1)] + ["col"]
    given = "value" if v.action in (FILL, ADD_VALUE) else "dense_ptr"
    parameters = ["table_ptr", given, *(f"index_{k}_ptr" for k in range(len(v.along)))]
    parameters += ["alpha"] * (v.action == ADD_SCALED) + ["self_ptr", "out_ptr", "whole_size"] * v.whole
    parameters += ["n_rows", "n_cols", *(f"size_{n}" for n in names[1:-1])]
    parameters += [f"{t}_stride_{n}" for t in ("table", "dense") for n in names]
    lines = [
        "col_blocks = tl.cdiv(n_cols, BLOCK_COLS)",
        "row = tl.program_id(0) // col_blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)",
        "i_col = (tl.program_id(0) % col_blocks * BLOCK_COLS + tl.arange(0, BLOCK_COLS))[None, :]",
        "row_inside, col_inside = (row < n_rows)[:, None], i_col < n_cols",
        "inside = row_inside & col_inside",
        "rest = row[:, None]",
    ]
    for n in reversed(names[1:-1]):
        lines += [f"i_{n} = rest % size_{n}", f"rest = rest // size_{n}"]
    lines += ["i_0 = rest"] if v.rank > 1 else []
    for t in ("table", "dense"):
        rows = " + ".join(f"i_{n} * {t}_stride_{n}" for n in names[:-1]) or "rest * 0"
        lines.append(f"{t}_offset = {rows} + i_col * {t}_stride_col")
    for k, along in enumerate(v.along):
        walked = {"row": names[:-1], "col": ["col"], "both": names}[along]
        parameters += [f"index_{k}_stride_{n}" for n in walked] + [f"n_{k}", f"step_{k}"]
        mask = {"row": "row_inside", "col": "col_inside", "both": "inside"}[along]
        place = " + ".join(f"i_{n} * index_{k}_stride_{n}" for n in walked) or "rest * 0"
        low = f"-n_{k}" if v.wraps else "0"
        lines += [
            f"index_{k} = tl.load(index_{k}_ptr + {place}, mask={mask}, other=0).to(tl.int64)",
            f"tl.device_assert((index_{k} >= {low}) & (index_{k} < n_{k}), 'index out of range')",
        ]
        lines += [f"index_{k} = tl.where(index_{k} < 0, index_{k} + n_{k}, index_{k})"] if v.wraps else []
        lines.append(f"table_offset = table_offset + index_{k} * step_{k}")
    before, after = (_FILL_TABLE, _WRITE_OUT) if v.whole else ((), ())
    text = "".join(f"    {line}\n" for line in [*before, *lines, v.action, *after])
    parameters += ["BLOCK_ROWS: tl.constexpr", "BLOCK_COLS: tl.constexpr"] + ["WHOLE: tl.constexpr"] * v.whole
    return f"def kernel({', '.join(parameters)}):\n{text}"


@lru_cache(maxsize=None)
def kernel(v: Variant) -> LibEntry:
    """The launchable kernel of a variant. Its text can be read in tracebacks and by inspect."""
    name = f"_{_NAMES[v.action]}_{v.rank}_{'_'.join(v.along)}{'_wrapping' if v.wraps else ''}{'_whole' if v.whole else ''}_kernel"
    text = source(v).replace("def kernel(", f"def {name}(", 1)
    file = f"<gems {__name__}.{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, object] = {"tl": tl, "bits": bits, "order_of": order_of, "__name__": __name__}
    exec(compile(text, file, "exec"), scope)  # noqa: S102  our own text
    parameters = text[text.index("(") + 1 : text.index(")")].split(", ")
    plain = [p for p in parameters if p in ("value", "alpha") or p.startswith(("n_", "size_")) and p != "n_cols"]
    # debug: device asserts stay in, and an index out of range stops the program as in ATen
    return LibEntry(triton.jit(scope[name], do_not_specialize=plain, debug=True))


def check_indices(index: Tensor, low: int, high: int) -> None:
    """Nothing waits for an interpreted kernel, so there ATen's own error can be had."""
    if not bool(((index >= low) & (index < high)).all()):
        raise Declined("an index is out of range: ATen raises")


def plan_indexed(
    plan: Plan, action: str, table: Code, dense: Code | int, indices: Sequence[Index], shape: Sequence[int],
    table_strides: Sequence[int], dense_strides: Sequence[int], wraps: bool = False, alpha: int | float | None = None,
    whole: Whole | None = None,
) -> None:  # fmt: skip
    """Add a launch that walks `shape`. `table_strides` are 0 where indices name the place; `dense` may be a value's bits.

    With `whole`, all is one program's: `shape` must fit one (see `fits_one_program`).
    """
    if device.interpreted():
        for index in indices:
            plan.do("{check}({index}, {low}, {n})", check=check_indices, index=index.code, low=-index.n if wraps else 0, n=index.n)
    if prod(shape) > INT32_EXTENT:
        raise Declined("2**31 indices")
    sizes, merged = collapse(shape, [*(i.strides for i in indices), table_strides, dense_strides])
    if not sizes:
        sizes, merged = [1], [[0] for _ in merged]
    *walks, by_table, by_dense = merged
    n_rows, n_cols = prod(sizes[:-1]), sizes[-1]
    along = tuple("row" if walk[-1] == 0 else "both" if any(walk[:-1]) else "col" for walk in walks)
    strides = {"row": lambda w: w[:-1], "col": lambda w: w[-1:], "both": lambda w: w}
    named = [x for a, w, i in zip(along, walks, indices, strict=True) for x in (*strides[a](w), i.n, i.step)]
    tile = INTERPRETER_TILE if device.interpreted() else TILE
    block_cols = min(triton.next_power_of_2(n_cols), tile)
    # no more rows than leave a few programs for every multiprocessor
    block_rows = max(1, min(tile // block_cols, triton.next_power_of_2(n_rows) // 512))
    if device.interpreted() or block_cols < 128 or whole:
        block_rows = min(tile // block_cols, triton.next_power_of_2(n_rows))
    tables = [triton.next_power_of_2(whole.n)] if whole else []
    plan.launch(
        kernel(Variant(action, len(sizes), along, wraps, whole is not None)),
        (triton.cdiv(n_rows, block_rows) * triton.cdiv(n_cols, block_cols),),
        table, dense, *(i.code for i in indices), *([] if alpha is None else [alpha]),
        *([whole.before, whole.after, whole.n] if whole else []), n_rows, n_cols, *sizes[1:-1],
        *by_table, *by_dense, *named, block_rows, block_cols, *tables,
        num_warps=max(1, min(8, max(block_rows * block_cols, *tables, 0) // 512)), sanitize_overflow=False,
    )  # fmt: skip


def fits_one_program(shape: Sequence[int]) -> bool:
    """True if a tile holds a walk of this shape, however its dimensions are split into rows and columns."""
    return prod(map(triton.next_power_of_2, shape)) <= TILE


def plan_target(plan: Plan, self: Tensor, out: Tensor | None, in_place: bool, strides: Sequence[int] | None = None) -> tuple[Code, tuple[int, ...]]:
    """(what is written to, its strides), holding self's elements: self, out=, or a new tensor."""
    if in_place:
        return Code("self"), self.stride()
    if out is None:
        like = torch.empty_strided(self.shape, strides, device="meta") if strides else torch.empty(self.shape, device="meta")
        plan.has("self", self)
        code = plan.empty("target", self.shape, self.dtype, self.device, like.stride())
    else:
        like, code = result_buffer(out, self.shape, self.dtype, self.device), Code("out0")
    copied = [Dim(n, a, b) for n, a, b in zip(self.shape, self.stride(), like.stride(), strict=True)]
    plan_walk(plan, Code("self"), code, copied)
    return code, like.stride()


def refuse_when_deterministic(plan: Plan) -> None:
    """Several threads write one element in no fixed order; ATen has another algorithm for those who mind."""
    plan.do(
        "if {asked}(): raise {declined}('deterministic algorithms are asked for')",
        asked=torch.are_deterministic_algorithms_enabled, declined=Declined,
    )  # fmt: skip


def without(strides: Sequence[int], dim: int) -> tuple[int, ...]:
    """The strides with 0 for the dimension whose places indices name."""
    return tuple(0 if d == dim else s for d, s in enumerate(strides))
