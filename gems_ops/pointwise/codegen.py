"""Writes pointwise kernels: one source per scalar function, layout rank, operand kinds and compute dtype.

Generated text, rather than tuple arguments, keeps every argument flat, so that a launch takes the fast path.
"""

from __future__ import annotations

import enum
import linecache
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl

from gems_runtime import LibEntry


class Operand(enum.Enum):
    """How a kernel gets one argument of the scalar function."""

    TILE = "tile"  # a tensor read at every index
    POINT = "point"  # a tensor with one element for all indices
    NUMBER = "number"  # a Python number, in the compute dtype
    FIXED = "fixed"  # a compile-time value


@dataclass(frozen=True)
class Variant:
    """Everything that the text of a kernel depends on, beside the scalar function."""

    names: tuple[str, ...]  # the scalar function's parameters
    operands: tuple[Operand, ...]
    casts: tuple[bool, ...]  # whether the operand is converted to the compute dtype
    compute: torch.dtype
    rank: int  # 0: every tile is dense in the same order and indexed flat
    wide: bool  # 64-bit indices


_TL = {
    torch.float16: "tl.float16", torch.bfloat16: "tl.bfloat16", torch.float32: "tl.float32", torch.float64: "tl.float64",
    torch.uint8: "tl.uint8", torch.int8: "tl.int8", torch.int16: "tl.int16", torch.int32: "tl.int32",
    torch.int64: "tl.int64", torch.bool: "tl.int1",
}  # fmt: skip


def number_annotation(compute: torch.dtype) -> str:
    """How a number travels: float32 as itself, float64 as its bits (Triton passes Python floats as float32), else int64."""
    return "tl.float32" if compute == torch.float32 else "tl.int64"


def _parameters(v: Variant) -> list[str]:
    out = []
    for name, operand in zip(v.names, v.operands, strict=True):
        if operand in (Operand.TILE, Operand.POINT):
            out.append(f"{name}_ptr")
        elif operand is Operand.NUMBER:
            out.append(f"{name}: {number_annotation(v.compute)}")
    out += ["result_ptr", "total"]
    if v.rank:
        out += [f"size_{d}" for d in range(1, v.rank)]
        out += [f"{t}_stride_{d}" for t in _tiles(v) for d in range(v.rank)]
    out += [f"{name}: tl.constexpr" for name, o in zip(v.names, v.operands, strict=True) if o is Operand.FIXED]
    return [*out, "BLOCK: tl.constexpr"]


def _tiles(v: Variant) -> list[str]:
    return [*(name for name, o in zip(v.names, v.operands, strict=True) if o is Operand.TILE), "result"]


def _index_lines(v: Variant) -> list[str]:
    pid = "tl.program_id(0).to(tl.int64)" if v.wide else "tl.program_id(0)"
    lines = [f"lane = {pid} * BLOCK + tl.arange(0, BLOCK)", "inside = lane < total"]
    if not v.rank:
        return lines
    lines.append("rest = lane")
    for d in range(v.rank - 1, 0, -1):
        lines += [f"i_{d} = rest % size_{d}", f"rest = rest // size_{d}"]
    lines.append("i_0 = rest")
    for t in _tiles(v):
        lines.append(f"{t}_offset = " + " + ".join(f"i_{d} * {t}_stride_{d}" for d in range(v.rank)))
    return lines


def _load_line(v: Variant, name: str, operand: Operand, cast: bool) -> list[str]:
    kind = _TL[v.compute]
    if operand is Operand.TILE:
        offset = f"{name}_offset" if v.rank else "lane"
        line = f"tl.load({name}_ptr + {offset}, mask=inside)"
    elif operand is Operand.POINT:
        line = f"tl.load({name}_ptr)"
    elif operand is Operand.NUMBER:
        if v.compute == torch.float64:
            return [f"{name} = tl.cast(tl.cast({name}, tl.int64), tl.float64, bitcast=True)"]
        return [f"{name} = tl.cast({name}, {kind})"]  # a function, since the interpreter passes plain floats
    else:
        return []
    return [f"{name} = {line}.to({kind})" if cast else f"{name} = {line}"]


def source(v: Variant) -> str:
    """The kernel's text; SCALAR is the scalar function.

    Local names (lane, inside, rest, total) are none of ATen's argument names: those name the operands.
    """
    body = _index_lines(v)
    for name, operand, cast in zip(v.names, v.operands, v.casts, strict=True):
        body += _load_line(v, name, operand, cast)
    offset = "result_offset" if v.rank else "lane"
    body.append(f"tl.store(result_ptr + {offset}, SCALAR({', '.join(v.names)}), mask=inside)")
    return f"def kernel({', '.join(_parameters(v))}):\n" + "".join(f"    {line}\n" for line in body)


@lru_cache(maxsize=None)
def kernel(scalar: triton.JITFunction, v: Variant) -> LibEntry:
    """The launchable kernel of a scalar function for one variant. Its text can be read in tracebacks and by inspect."""
    text = source(v)
    kinds = "".join(o.value[0] for o in v.operands)
    name = f"_{scalar.fn.__name__}_{kinds}_{v.rank}_{_TL[v.compute][3:]}{'_wide' if v.wide else ''}_kernel"
    text = text.replace("def kernel(", f"def {name}(", 1)
    file = f"<gems pointwise {scalar.fn.__module__}.{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope = {"tl": tl, "SCALAR": scalar, "__name__": scalar.fn.__module__}
    exec(compile(text, file, "exec"), scope)  # noqa: S102  our own text
    plain, unaligned = unspecialized(v)
    return LibEntry(triton.jit(scope[name], do_not_specialize=plain, do_not_specialize_on_alignment=unaligned))


def unspecialized(v: Variant) -> tuple[list[str], list[str]]:
    """Parameters that Triton shall not compile anew for: (for no value at all, only for the value 1).

    A strided kernel gains from knowing that an innermost stride is 1; every other size and stride would multiply the
    compilations, 0.2 s each, for nothing.
    """
    plain = [n for n, o in zip(v.names, v.operands, strict=True) if o is Operand.NUMBER]
    if not v.rank:
        return plain, []
    plain += ["total", *(f"size_{d}" for d in range(1, v.rank))]
    plain += [f"{t}_stride_{d}" for t in _tiles(v) for d in range(v.rank - 1)]
    return plain, [f"{t}_stride_{v.rank - 1}" for t in _tiles(v)]
