"""cat: tensors copied side by side, up to twelve in a launch."""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.layout import INT32_EXTENT, collapse, extent, suggested_format
from gems_ops.op import ALL, Declined, Sample, op, result_buffer
from gems_ops.plan import Code, Plan, Planned, call
from gems_ops.samples import layouts, values
from gems_ops.shape.walk import Dim, cast, plan_walk
from gems_ops.workloads import Workload, random_like
from gems_runtime import LibEntry, device

TILE = 4096  # elements of a program: 16 per thread of 8 warps
INTERPRETER_TILE = 1 << 16  # the interpreter pays per program, not per element
GROUP = 12  # the text of a kernel grows with them


@triton.jit
def _copy_tile(x_ptr, out_ptr, n_rows, n_cols, x_stride_row, out_stride_row, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    col_blocks = tl.cdiv(n_cols, BLOCK_COLS)
    row = (tl.program_id(0) // col_blocks).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = (tl.program_id(0) % col_blocks) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    mask = (row < n_rows)[:, None] & (col < n_cols)[None, :]
    x = tl.load(x_ptr + (row * x_stride_row)[:, None] + col[None, :], mask=mask)
    tl.store(out_ptr + (row * out_stride_row)[:, None] + col[None, :], cast(x, out_ptr.dtype.element_ty), mask=mask)


def source(count: int) -> str:
    """The text of a kernel that lays `count` matrices side by side.

    Axis 1 of the grid says which one; a branch each keeps what is known of its alignment.
    """
    slots = [f"x{i}_ptr, cols{i}, stride{i}, at{i}" for i in range(count)]
    parameters = ["out_ptr", "n_rows", "out_stride_row", *slots, "BLOCK_ROWS: tl.constexpr", "BLOCK_COLS: tl.constexpr"]
    lines = ["which = tl.program_id(1)"]
    for i in range(count):
        tile = f"x{i}_ptr, out_ptr + at{i}, n_rows, cols{i}, stride{i}, out_stride_row, BLOCK_ROWS, BLOCK_COLS"
        lines += [f"if which == {i}:", f"    copy_tile({tile})"]
    text = "".join(f"    {line}\n" for line in lines)
    return f"def _join_{count}_kernel({', '.join(parameters)}):\n{text}"


@lru_cache(maxsize=None)
def kernel(count: int) -> LibEntry:
    """The launchable kernel for so many matrices. Its text can be read in tracebacks and by inspect."""
    text, name = source(count), f"_join_{count}_kernel"
    file = f"<gems {__name__}.{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, object] = {"tl": tl, "copy_tile": _copy_tile, "__name__": __name__}
    exec(compile(text, file, "exec"), scope)  # noqa: S102  our own text
    return LibEntry(triton.jit(scope[name]))


@dataclass(frozen=True)
class Matrix:
    """One input as (rows, cols) with dense rows, and where in the result it goes."""

    position: int
    rows: int
    cols: int
    stride: int
    out_stride: int
    at: int


@dataclass(frozen=True)
class Part:
    """One input of any strides, and where in the result it goes."""

    position: int
    sizes: list[int]
    strides: list[int]
    out_strides: list[int]
    at: int

    def matrix(self) -> Matrix | None:
        """The same as rows, if its innermost dimension is dense on both sides and one more is all there is; or as a column."""
        if len(self.sizes) == 1 and self.out_strides[0] != 1:
            return Matrix(self.position, self.sizes[0], 1, self.strides[0], self.out_strides[0], self.at)
        if len(self.sizes) > 2 or self.sizes and (self.strides[-1] != 1 or self.out_strides[-1] != 1):
            return None
        one = [0] * (2 - len(self.sizes))
        (rows, cols) = ([1] * len(one) + self.sizes)
        return Matrix(self.position, rows, cols, (one + self.strides)[0], (one + self.out_strides)[0], self.at)


def result_layout(tensors: list[Tensor], dim: int) -> tuple[list[int], torch.dtype, torch.memory_format, int]:
    """Shape, dtype and memory format as ATen's, and the non-negative dim. Declines what does not fit together.

    Tensors of shape (0,) go with any others, for they once did.
    """
    shaped = [t for t in tensors if t.shape != (0,)]
    if not shaped:
        raise Declined("nothing but empty tensors")
    first, rank = shaped[0], shaped[0].dim()
    if rank == 0 or not -rank <= dim < rank:
        raise Declined(f"dim {dim} of {rank} dimensions: ATen raises")
    dim %= rank
    rest = [n for d, n in enumerate(first.shape) if d != dim]
    if any(t.dim() != rank or [n for d, n in enumerate(t.shape) if d != dim] != rest for t in shaped):
        raise Declined("shapes differ outside dim: ATen raises")
    dtype = tensors[0].dtype
    for t in tensors:
        dtype = torch.promote_types(dtype, t.dtype)
    formats = {suggested_format(t) for t in shaped} if rank in (4, 5) else {torch.contiguous_format}
    shape = [*first.shape]
    shape[dim] = sum(t.shape[dim] for t in shaped)
    if 0 in shape:
        raise Declined("the result is empty")
    return shape, dtype, formats.pop() if len(formats) == 1 else torch.contiguous_format, dim


def parts(tensors: list[Tensor], out_strides: tuple[int, ...], dim: int) -> Iterator[Part]:
    """The inputs with their dimensions collapsed, in the order of the result's memory."""
    at = 0
    for position, t in enumerate(tensors):
        if t.numel() == 0:
            continue
        sizes, (x, out) = collapse(t.shape, [t.stride(), out_strides])
        yield Part(position, sizes, x, out, at * out_strides[dim])
        at += t.shape[dim]


def _plan_cat(tensors: list[Tensor], dim: int, out: Tensor | None = None) -> Planned:
    shape, dtype, memory_format, dim = result_layout(tensors, dim)
    if out is not None:
        strides = result_buffer(out, shape, dtype, out.device).stride()
    else:
        strides = torch.empty(shape, device="meta", memory_format=memory_format).stride()
    if extent(shape, strides) > INT32_EXTENT:
        raise Declined("the result spans 2**31 elements")
    plan = Plan("x", "_dim", out=out)
    result = Code("out0") if out is not None else plan.empty("out", shape, dtype, tensors[0].device, strides)
    for group in _groups(list(parts(tensors, strides, dim))):
        if isinstance(group, Part):
            _copy(plan, group, result)
        else:
            _join(plan, group, result)
    return plan.build(result)


def _groups(pieces: list[Part]) -> Iterator[Part | list[Matrix]]:
    """Inputs that are matrices of as many rows go together; others have a launch each."""
    group: list[Matrix] = []
    for piece in pieces:
        m = piece.matrix()
        if m is None:
            yield piece
            continue
        if group and (len(group) == GROUP or (m.rows, m.out_stride) != (group[0].rows, group[0].out_stride)):
            yield group
            group = []
        group.append(m)
    if group:
        yield group


def _join(plan: Plan, group: list[Matrix], out: Code) -> None:
    tile = INTERPRETER_TILE if device.interpreted() else TILE
    rows, widest = group[0].rows, max(m.cols for m in group)
    block_cols = min(triton.next_power_of_2(widest), tile)
    block_rows = min(triton.next_power_of_2(rows), tile // block_cols)
    slots = [(Code(f"x[{m.position}]"), m.cols, m.stride, m.at) for m in group]
    plan.launch(
        kernel(len(group)), (triton.cdiv(rows, block_rows) * triton.cdiv(widest, block_cols), len(group)),
        out, rows, group[0].out_stride, *(value for slot in slots for value in slot), block_rows, block_cols,
        num_warps=max(1, min(8, block_rows * block_cols // 512)),
    )  # fmt: skip


def _copy(plan: Plan, piece: Part, out: Code) -> None:
    dims = [Dim(*d) for d in zip(piece.sizes, piece.strides, piece.out_strides, strict=True)]
    plan_walk(plan, Code(f"x[{piece.position}]"), out, dims, out_at=piece.at)


def _joins(dtype: torch.dtype) -> Iterator[Sample]:
    for shapes, dim in ((((3,), (5,)), 0), (((2, 3), (4, 3), (1, 3)), 0), (((2, 3), (2, 1)), -1), (((2, 3, 4), (2, 1, 4)), 1)):
        yield Sample(([values(s, dtype, seed=i) for i, s in enumerate(shapes)], dim))
    yield Sample(([values((3, i + 1), dtype, seed=i) for i in range(9)], 1))
    yield Sample(([values((4,), dtype)],))
    for x in layouts((4, 6), dtype):
        yield Sample(([x, values((4, 6), dtype)], 0))
        yield Sample(([values((4, 6), dtype), x, x], 1))
    x = values((2, 3, 4, 5), dtype).to(memory_format=torch.channels_last)
    yield Sample(([x, x], 1))
    yield Sample(([x, x], 0))
    yield Sample(([x, x.contiguous()], 3))
    yield Sample(([values((64, 64), dtype), values((64, 64), dtype, seed=1)], 1))
    yield Sample(([torch.empty(0, dtype=dtype), values((4, 6), dtype), torch.empty(4, 0, dtype=dtype)], 1))
    yield Sample(([values((4, 6), dtype), values((4, 6), torch.uint8), values((6, 4), torch.bfloat16).t()], 0))
    if dtype == torch.float16:
        yield Sample(([values((4, 6), dtype), values((4, 6), torch.float32), values((4, 6), torch.float16)], 1))


def _bench(dim: int, *shapes: tuple[int, ...]) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return ([random_like(s, dtype, where) for s in shapes], dim), {}

    return Workload(" + ".join("x".join(map(str, s)) for s in shapes) + f" dim {dim}", make)


_BENCH = (
    _bench(1, (4096, 4096), (4096, 4096)),
    _bench(0, (4096, 4096), (4096, 4096)),
    _bench(2, (1, 32, 512, 128), (1, 32, 1, 128)),
    _bench(1, *[(8192, 512)] * 8),
)  # fmt: skip


@op("aten::cat", dtypes=ALL, samples=_joins, may_be_empty=frozenset({"tensors"}), plan=_plan_cat, bench=_BENCH)
def cat(tensors: list[Tensor], dim: int = 0, out: Tensor | None = None) -> Tensor:
    """The tensors one after the other along dim."""
    return call(_plan_cat, tensors, dim, out=out)
