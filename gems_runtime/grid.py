"""Launch grids: reading one as three numbers, and remembering what a callable grid answered.

`lambda meta: (triton.cdiv(n, meta["BLOCK"]),)` costs 2.5 us a call, most of it in `triton.cdiv`; its remembered answer
0.2 us (EPYC, Python 3.11). An answer is remembered only under everything that it was computed from.
"""

from __future__ import annotations

import builtins
import dis
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from types import CodeType, FunctionType, NoneType

import torch
import triton

from gems_runtime import compat
from gems_runtime.errors import GridTooLarge

Dims = tuple[int, int, int]
LIMIT = 1024
LARGEST = 2**31 - 1
Grid = Sequence[int] | Callable[[dict[str, object]], Sequence[int]]


class Reads(dict[str, object]):
    """A dict that notes which names are read; `opaque` once somebody looks at it as a whole or asks what is in it."""

    def __init__(self, values: dict[str, object]) -> None:
        super().__init__(values)
        self.names: set[str] = set()
        self.opaque = False

    def __getitem__(self, name: str) -> object:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: object = None) -> object:
        self.opaque = True
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.opaque = True
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self.opaque = True
        return super().__iter__()

    def __len__(self) -> int:
        self.opaque = True
        return super().__len__()

    def keys(self):  # noqa: ANN201 - a dict view
        self.opaque = True
        return super().keys()

    def values(self):  # noqa: ANN201 - a dict view
        self.opaque = True
        return super().values()

    def items(self):  # noqa: ANN201 - a dict view
        self.opaque = True
        return super().items()

    def copy(self) -> dict[str, object]:
        self.opaque = True
        return super().copy()


def dims(grid: Sequence[int]) -> Dims:
    """The three numbers of a grid, read as stock Triton reads it: missing ones are 1, further ones are ignored."""
    size = len(grid)
    return grid[0], grid[1] if size > 1 else 1, grid[2] if size > 2 else 1


def is_miscounted(found: Dims) -> bool:
    """True for two numbers below zero: an empty grid, which Triton's launcher launches because their product is above it."""
    a, b, c = found
    if type(a) is not int or type(b) is not int or type(c) is not int or (a < 0) + (b < 0) + (c < 0) != 2:
        return False
    # The launcher refuses what 32 bits do not hold.
    return min(found) >= -LARGEST - 1 and max(found) <= LARGEST


def noted(grid: Grid, seen: list[Dims]) -> Grid:
    """The same grid, which adds its numbers to `seen` when stock Triton reads it; an empty one if it is miscounted."""
    if not callable(grid):
        if isinstance(grid, (tuple, list)) and grid:
            seen.append(dims(grid))
            return (0,) if is_miscounted(seen[-1]) else grid
        return grid

    @functools.wraps(grid)
    def ask(values: dict[str, object]) -> Sequence[int]:
        found = grid(values)
        seen.append(dims(found))
        return (0,) if is_miscounted(seen[-1]) else found

    return ask


def is_dropped(found: Dims) -> bool:
    """True for a grid that Triton's launcher has taken and launched nothing for, though it is not empty."""
    programs = found[0] * found[1] * found[2]
    if abs(programs) <= LARGEST:
        return False
    if compat.drops_even_grids():
        return programs % 2**32 == 0
    return compat.drops_large_grids() and programs > LARGEST


def refuse(found: Dims) -> None:
    """Raise GridTooLarge."""
    raise GridTooLarge(
        f"grid {found} has more than {LARGEST} programs, of which Triton's launcher silently runs none; "
        "launch in parts, or let the native tier serve the call (gems_runtime.native_status() says why it does not)"
    )


def resolve(
    inputs: frozenset[str], grid: object, key: tuple | None, remembered: dict[tuple, Dims], values: dict[str, object]
) -> Dims:
    """The numbers of a grid that is no plain tuple; remembered under `key` if it depends on nothing but `inputs`."""
    if not callable(grid):
        return _counted(dims(grid))
    found, names = answer(grid, values, key is not None)
    found = _counted(found)
    if names is not None and names <= inputs and all(type(n) is int for n in found):
        if len(remembered) >= LIMIT:
            remembered.clear()
        remembered[key] = found
    return found


def _counted(found: Dims) -> Dims:
    return (0, 1, 1) if is_miscounted(found) else found


def answer(grid: Callable, values: dict[str, object], may_remember: bool) -> tuple[Dims, set[str] | None]:
    """What a callable grid answers, and the names it read; None if the answer may depend on more than them."""
    if not may_remember or not _is_pure(grid):
        return dims(grid(values)), None
    reads = Reads(values)
    found = dims(grid(reads))
    return found, None if reads.opaque else reads.names


_GLOBALS = {"triton": triton, "math": math, "cdiv": triton.cdiv, "next_power_of_2": triton.next_power_of_2}
_GLOBALS |= {name: getattr(builtins, name) for name in ("min", "max", "abs", "int", "len", "round")}
_ATTRIBUTES = frozenset({"cdiv", "next_power_of_2", "ceil", "floor"})
_STORES = frozenset({"STORE_DEREF", "STORE_GLOBAL", "STORE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR", "IMPORT_NAME"})
_VALUES = (int, bool, float, str, NoneType)


def _is_pure(grid: FunctionType) -> bool:
    """True if the answer depends on the argument and on closed-over plain values alone. Unknown names mean no."""
    if not _is_plain(grid.__code__) or grid.__defaults__ or grid.__kwdefaults__:
        return False
    for name in grid.__code__.co_names:
        missing = getattr(builtins, name, None)
        if name not in _ATTRIBUTES and grid.__globals__.get(name, missing) is not _GLOBALS.get(name, grid):
            return False
    return all(_is_value(cell.cell_contents) for cell in grid.__closure__ or ())


@functools.lru_cache(LIMIT)
def _is_plain(code: CodeType) -> bool:
    nested = any(isinstance(constant, CodeType) for constant in code.co_consts)
    return not nested and not any(i.opname in _STORES for i in dis.get_instructions(code))


def _is_value(value: object) -> bool:
    if type(value) in (tuple, torch.Size):
        return all(map(_is_value, value))
    return type(value) in _VALUES

