"""Writes pointwise kernels: one source per scalar function, walk over memory, operand kinds and dtypes.

Generated text, rather than tuples of sizes and strides, keeps every argument flat: a launch of two strided operands then
costs 0.5 us above the driver through LibEntry, with tuples 26 us through stock Triton, which alone takes them (EPYC, Python
3.11, the recording stand-in for the driver).
"""

from __future__ import annotations

import enum
import hashlib
import inspect
import linecache
import zlib
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType

import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITCallable

from gems_ops.pointwise.convert import converted
from gems_ops.pointwise.walk import Mode, Pattern
from gems_runtime import LibEntry, device


class Operand(enum.Enum):
    """How a kernel gets one argument of the scalar function."""

    TILE = "tile"  # a tensor read at every index
    POINT = "point"  # a tensor with one element for all indices
    NUMBER = "number"  # a Python number
    FIXED = "fixed"  # a compile-time value


@dataclass(frozen=True)
class Variant:
    """Everything that the text of a kernel depends on, beside the scalar function."""

    operands: tuple[Operand, ...]
    # What each operand is converted to, one after the other: (common dtype, compute dtype) rounds a number as ATen does.
    casts: tuple[tuple[torch.dtype, ...], ...]
    outputs: int
    pattern: Pattern

    @property
    def names(self) -> tuple[str, ...]:
        """The operands' names, which are no operator's: those that are alike in all else then share every text."""
        return tuple(f"x{i}" for i in range(len(self.operands)))


_TL = {
    torch.float16: "tl.float16", torch.bfloat16: "tl.bfloat16", torch.float32: "tl.float32", torch.float64: "tl.float64",
    torch.uint8: "tl.uint8", torch.int8: "tl.int8", torch.int16: "tl.int16", torch.int32: "tl.int32",
    torch.int64: "tl.int64", torch.bool: "tl.int1",
}  # fmt: skip
KNOWN = frozenset(_TL)


def number_annotation(casts: tuple[torch.dtype, ...]) -> str:
    """How a number travels: float64 as its bits (Triton passes Python floats as float32), integers in 64 bits."""
    if not casts:
        return ""
    return ": tl.float32" if casts[-1] == torch.float32 else ": tl.int64"


def _parameters(v: Variant) -> list[str]:
    out = []
    for name, operand, casts in zip(v.names, v.operands, v.casts, strict=True):
        if operand in (Operand.TILE, Operand.POINT):
            out.append(f"{name}_ptr")
        elif operand is Operand.NUMBER:
            out.append(name + number_annotation(casts))
    out += [f"result{i}_ptr" for i in range(v.outputs)]
    out += _layout_parameters(v)
    out += [f"{name}: tl.constexpr" for name, o in zip(v.names, v.operands, strict=True) if o is Operand.FIXED]
    blocks = ("BLOCK_ROWS", "BLOCK_COLS") if v.pattern.mode is Mode.TILE else ("BLOCK",)
    return [*out, *(f"{b}: tl.constexpr" for b in blocks)]


def _layout_parameters(v: Variant) -> list[str]:
    """Sizes and strides, in the order of `Walk.numbers`."""
    p = v.pattern
    if p.mode is not Mode.TILE:
        sizes = ["total", *(f"size_{d}" for d in range(1, p.rank))]
    else:
        sizes = [f"size_{d}" for d in range(1, p.rank)]
        sizes += ["rows"] if p.rank == 2 else ["row_blocks"]
    return sizes + [f"{t}_stride_{d}" for t, kinds in _tiles(v) for d, kind in enumerate(kinds) if kind == "s"]


def _tiles(v: Variant) -> list[tuple[str, str]]:
    """(name, kinds of its strides) of every tensor that is walked."""
    names = [name for name, o in zip(v.names, v.operands, strict=True) if o is Operand.TILE]
    names += [f"result{i}" for i in range(v.outputs)]
    return list(zip(names, v.pattern.strides, strict=True))


def _index_lines(v: Variant) -> list[str]:
    p = v.pattern
    pid = "tl.program_id(0).to(tl.int64)" if p.wide else "tl.program_id(0)"
    if p.mode is Mode.TILE:
        return _tile_index_lines(v, pid)
    lines = [f"lane = {pid} * BLOCK + tl.arange(0, BLOCK)"]
    if p.mode is Mode.FLAT:
        return [*lines, *(f"{t}_offset = lane" for t, _ in _tiles(v))]
    lines.append("rest = lane")
    for d in range(p.rank - 1, 0, -1):
        lines += [f"i_{d} = rest % size_{d}", f"rest = rest // size_{d}"]
    lines.append("i_0 = rest")
    return lines + [f"{t}_offset = {_offset(t, kinds, 'lane * 0')}" for t, kinds in _tiles(v)]


def _tile_index_lines(v: Variant, pid: str) -> list[str]:
    """A program takes a block of rows and columns, the last two dimensions, at one index of the others."""
    p = v.pattern
    row, col = p.rank - 2, p.rank - 1
    strided = [f"{t}_stride_{d}" for t, kinds in _tiles(v) for d, kind in enumerate(kinds) if kind == "s"]
    lines = [f"{name} = {name} * 16" for name in (f"size_{col}", *strided)] if p.sixteens else []
    lines += [f"rest = {pid}", f"col_blocks = (size_{col} + BLOCK_COLS - 1) // BLOCK_COLS"]
    lines += [f"i_{col} = (rest % col_blocks) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]", "rest = rest // col_blocks"]
    if p.rank > 2:
        lines += ["block_row = rest % row_blocks", "rest = rest // row_blocks"]
    lines.append(f"i_{row} = {'block_row' if p.rank > 2 else 'rest'} * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]")
    for d in range(row - 1, 0, -1):
        lines += [f"i_{d} = rest % size_{d}", f"rest = rest // size_{d}"]
    if p.rank > 2:
        lines.append("i_0 = rest")
    lines += [f"row_inside = i_{row} < {f'size_{row}' if row else 'rows'}", f"col_inside = i_{col} < size_{col}"]
    return lines + [f"{t}_offset = {_offset(t, kinds, '0')}" for t, kinds in _tiles(v)]


def _offset(tensor: str, kinds: str, nothing: str) -> str:
    """The sum of index times stride; what does not depend on an index costs nothing."""
    term = {"1": "i_{d}", "s": "i_{d} * {t}_stride_{d}"}
    return " + ".join(term[kind].format(d=d, t=tensor) for d, kind in enumerate(kinds) if kind != "0") or nothing


def _mask(v: Variant, kinds: str) -> str:
    """A tensor that does not vary along rows or columns is read once for all of them."""
    if v.pattern.mode is not Mode.TILE:
        return "inside"
    names = [n for n, kind in zip(("row_inside", "col_inside"), kinds[-2:], strict=True) if kind != "0"]
    return " & ".join(names)


def _lanes(v: Variant) -> list[str]:
    """Zeros of the shape of a block."""
    return [f"i_{d} * 0" for d in (v.pattern.rank - 2, v.pattern.rank - 1)] if v.pattern.mode is Mode.TILE else ["lane * 0"]


def _cast_lines(name: str, casts: tuple[torch.dtype, ...]) -> list[str]:
    # a function, since the interpreter passes plain floats
    return [f"{name} = tl.cast({name}, {_TL[kind]})" for kind in casts]


def _scalar_lines(v: Variant) -> list[str]:
    """What is the same for all indices."""
    lines = []
    for name, operand, casts in zip(v.names, v.operands, v.casts, strict=True):
        if operand is Operand.POINT:
            lines.append(f"{name} = tl.load({name}_ptr)")
        elif operand is Operand.NUMBER and casts and casts[-1] == torch.float64:
            lines.append(f"{name} = tl.cast(tl.cast({name}, tl.int64), tl.float64, bitcast=True)")
        if operand in (Operand.POINT, Operand.NUMBER):
            lines += _cast_lines(name, casts)
    return lines


def _body(v: Variant, masked: bool) -> list[str]:
    """Load, compute, store."""
    lines, tiles = [], dict(_tiles(v))
    for name, operand, casts in zip(v.names, v.operands, v.casts, strict=True):
        if operand is Operand.TILE:
            mask = _mask(v, tiles[name]) if masked else ""
            lines.append(f"{name} = tl.load({name}_ptr + {name}_offset{f', mask={mask}' if mask else ''})")
            lines += _cast_lines(name, casts)
    values = [f"value{i}" for i in range(v.outputs)]
    lines.append(f"{', '.join(values)} = SCALAR({', '.join(v.names)})")
    for i, value in enumerate(values):
        pointer = f"result{i}_ptr + result{i}_offset"
        mask = _mask(v, "ss") if masked else ""
        stored = f"converted({value}, result{i}_ptr.dtype.element_ty)"
        if set(tiles[f"result{i}"]) == {"0"}:  # one element for all indices: it tells whether every value is other than 0
            pointer = f"result{i}_ptr + {' + '.join(_lanes(v))}"
            mask = " & ".join([*([mask] if mask else []), f"({value} == 0)"])
        lines.append(f"tl.store({pointer}, {stored}{f', mask={mask}' if mask else ''})")
    return lines


@lru_cache(maxsize=None)
def source(v: Variant) -> str:
    """The kernel's text; SCALAR is the scalar function."""
    lines = _index_lines(v) + _scalar_lines(v)
    if v.pattern.mode is Mode.TILE:
        lines += _body(v, True)
    elif v.pattern.ragged:
        # a mask that ends anywhere forbids wide accesses: all programs but the last do without
        indent = lambda body: [f"    {line}" for line in body]  # noqa: E731
        lines += ["if (tl.program_id(0) + 1).to(tl.int64) * BLOCK <= total:", *indent(_body(v, False))]
        lines += ["else:", *indent(["inside = lane < total", *_body(v, True)])]
    else:
        lines += ["inside = lane < total", *_body(v, True)]
    return f"def kernel({', '.join(_parameters(v))}):\n" + "".join(f"    {line}\n" for line in lines)


@lru_cache(maxsize=None)
def kernel(scalar: triton.JITFunction, v: Variant) -> LibEntry:
    """The launchable kernel of a scalar function for one variant. Its text can be read in tracebacks and by inspect."""
    text = source(v)
    name = f"_{scalar.fn.__name__}_{''.join(o.value[0] for o in v.operands)}_{v.pattern.label}_kernel"
    text = text.replace("def kernel(", f"def {name}(", 1)
    file = f"<gems pointwise {scalar.fn.__module__}.{name} {zlib.crc32(text.encode()):08x}>"
    scope = {"tl": tl, "SCALAR": scalar, "converted": converted, "__name__": scalar.fn.__module__}
    if device.interpreted():  # else Triton compiles the text, and Python never runs it
        linecache.cache[file] = _lines(text, file)
        exec(compile(text, file, "exec"), scope)  # noqa: S102  our own text
        return LibEntry(triton.jit(scope[name], do_not_specialize=unspecialized(v)))
    return LibEntry(_jit(text, name, file, scope, v))


def _jit(text: str, name: str, file: str, scope: dict[str, object], v: Variant) -> triton.JITFunction:
    """The JIT function of a text, without Python compiling it or Triton looking for its end token by token.

    0.7 ms of the 6 of a first call, with the key (EPYC, Python 3.11, 2026-11-27).
    """
    known = _stub(", ".join(_parameters(v)))
    stub = FunctionType(known.__code__.replace(co_name=name, co_filename=file), scope, name)
    stub.__annotations__, stub.__signature__ = known.__annotations__, known.__signature__
    linecache.cache[file] = _lines(f"def {name}(): pass\n", file)
    made = triton.jit(stub, do_not_specialize=unspecialized(v))
    linecache.cache[file] = _lines(text, file)
    made._unsafe_update_src(text)  # Triton's own way to change a source, 3.6 to 3.9
    _key(made, scope)
    return made


@lru_cache(maxsize=None)
def _stub(parameters: str) -> FunctionType:
    """A function that has these parameters and does nothing."""
    scope: dict[str, FunctionType] = {}
    exec(f"def stub({parameters}): pass", {"tl": tl}, scope)  # noqa: S102  our own text
    stub = scope["stub"]
    stub.__signature__ = inspect.signature(stub)
    return stub


def _key(made: triton.JITFunction, scope: dict[str, object]) -> None:
    """Give a kernel what Triton would look for in its syntax tree: a key of all that it is made of, and the globals to watch.

    A generated text reads no globals but `tl`, whose code is in the key of Triton, and the functions named here.
    """
    called = [f for f in scope.values() if isinstance(f, JITCallable)]
    parts = [made.src, *(f"{f.cache_key}{getattr(f, 'noinline', False)}" for f in called)]
    made.hash = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    made.used_global_vals = {key: value for f in called for key, value in f.used_global_vals.items()}


def _lines(text: str, file: str) -> tuple[int, None, list[str], str]:
    """An entry of linecache."""
    return len(text), None, text.splitlines(keepends=True), file


def unspecialized(v: Variant) -> list[str]:
    """Parameters that Triton shall not compile anew for: the text knows of them what helps.

    Only a total that is a multiple of 16 is worth a compilation, for it allows wide accesses under its mask.
    """
    numbers = [n for n, o in zip(v.names, v.operands, strict=True) if o is Operand.NUMBER]
    layout = _layout_parameters(v)
    return numbers + (layout if v.pattern.mode is not Mode.FLAT or v.pattern.ragged else [])
