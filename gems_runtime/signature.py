"""From a kernel's signature and the kinds of arguments seen so far, the source text of its launch function.

The text is a straight line: guards, one key, one table lookup, one call of the launcher. It is written once per set of
kinds and printed by `repr(entry)`. Where an argument has been of one kind only, its code assumes that kind behind a
guard; a call that fails a guard goes to the miss path, which writes a new text that knows the new kind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from types import NoneType

import torch
import triton.language as tl
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from gems_runtime import compat
from gems_runtime.grid import LARGEST


class _Unset:
    """The value of a parameter that the caller left to its default."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = _Unset()

# One letter per kind of argument. Exact types only: a subclass is free to behave otherwise.
# T tensor, P parameter, M tensor descriptor (a map of memory), I int, F float, B bool, N None, S str, D Triton dtype,
# X other keyable constant, U not passed.
_RUNTIME_KINDS = {torch.Tensor: "T", torch.nn.Parameter: "P", TensorDescriptor: "M", int: "I", float: "F", bool: "B", NoneType: "N"}
_CONSTANT_KINDS = {int: "I", bool: "B", NoneType: "N", str: "S", tl.dtype: "D", float: "X", tuple: "X"}
_CONSTANT_KINDS |= {tl.constexpr: "X", JITFunction: "X"}
_TENSORS = frozenset("TP")
# Kinds whose contents may change under the same object: no key holds what a heuristic or grid read of them.
CONTENTS = frozenset("TPM")
ODD = "?"


def kind_of(value: object, is_constexpr: bool) -> str:
    """The letter of a value's kind; ODD if only stock Triton may judge it."""
    if value is UNSET:
        return "U"
    return (_CONSTANT_KINDS if is_constexpr else _RUNTIME_KINDS).get(type(value), ODD)


def block_of(value: object) -> tuple[int, ...] | None:
    """The block of a tensor descriptor; None for anything else."""
    return tuple(value.block_shape) if type(value) is TensorDescriptor else None


def exact(value: object) -> object:
    """A key that two constants share only if Triton compiles them alike: 1, 1.0, True, 0.0 and -0.0 all differ.

    KeyError for a value with no such key. Objects are keyed by identity: the entry made under the key keeps them alive.
    """
    kind = type(value)
    if kind is int or kind is str or value is None or value is UNSET:
        return value
    if kind is bool:
        return bool, value
    if kind is float:
        return float, value.hex()
    if kind is tl.dtype or kind is JITFunction:
        return kind, id(value)
    if kind is tuple:
        return tuple, *map(exact, value)
    if kind is tl.constexpr:
        return tl.constexpr, exact(value.value)
    raise KeyError(value)


class IntClasses(dict[int, str]):
    """int -> the class Triton specialises it by: equal to 1, width, divisible by 16. KeyError if it fits no width.

    A dict because one lookup costs 30 ns and the comparisons 120 (EPYC, Python 3.11). Bounded: starts over when full.
    """

    LIMIT = 4096

    def __missing__(self, value: int) -> str:
        if len(self) >= self.LIMIT:
            self.clear()
        name = self[value] = _int_class(value)
        return name


class IntRows(dict[tuple[int, ...], str]):
    """The classes of several ints at once, as one text: a lookup for four ints costs 80 ns, four lookups 160."""

    def __init__(self, classes: IntClasses) -> None:
        self.classes = classes

    def __missing__(self, values: tuple[int, ...]) -> str:
        if len(self) >= IntClasses.LIMIT:
            self.clear()
        text = self[values] = ",".join([self.classes[value] for value in values])
        return text


def _int_class(value: int) -> str:
    if value == 1:
        return "1"
    aligned = "D" if value % 16 == 0 else ""
    for width, low, high in (("i32", -(2**31), 2**31), ("i64", -(2**63), 2**63), ("u64", 0, 2**64)):
        if low <= value < high:
            return width + aligned
    raise KeyError(value)


@dataclass(frozen=True)
class Param:
    """One kernel parameter. `supplied`: a config or heuristic gives the value, so the caller must not."""

    name: str
    is_constexpr: bool
    supplied: bool
    default: object = UNSET


@dataclass(frozen=True)
class Shape:
    """All that the text depends on."""

    params: tuple[Param, ...]
    kinds: tuple[frozenset[str], ...]  # per parameter
    options: tuple[tuple[str, frozenset[str]], ...] = ()  # num_warps and the like, with the kinds seen
    by_value: frozenset[str] = frozenset()  # integers and floats whose value chooses a config or feeds a heuristic
    live: tuple[str, ...] = ()  # heuristics evaluated on each call, because they read tensors
    used_globals: int = 0  # module constants whose change must raise stock Triton's error
    knobs_set: bool = False  # some runtime knob has been set, to a value that changes nothing
    tensor_flag: str = "is_cuda"
    bounded: bool = False  # whether a tensor's storage is below 2 GiB chooses the kernel
    has_devices: bool = True  # False: the only device is 0
    tunes: bool = False  # an autotuner's best_config follows each launch
    has_pre_hooks: bool = False  # some config has a function to call before each launch
    form: compat.LaunchForm = compat.RUN_FORM  # of the function in each table row
    hook_sees: tuple[str, ...] = ()  # what heuristics give before the autotuner, so that the function sees it

    def passed(self) -> list[tuple[Param, frozenset[str]]]:
        """The parameters that a caller may pass, with their kinds."""
        return [(p, k) for p, k in zip(self.params, self.kinds) if not p.supplied]

    def names(self) -> list[str]:
        """What a caller may pass: parameters in order, then options."""
        return [p.name for p, _ in self.passed()] + [name for name, _ in self.options]

    def maps(self) -> list[str]:
        """The parameters that have been tensor descriptors."""
        return [p.name for p, k in self.passed() if "M" in k]


_USED_BUILTINS = frozenset({"KeyError", "TypeError", "bool", "float", "id", "int", "len", "map", "str", "tuple", "type"})


def is_reserved(name: str) -> bool:
    """True if a parameter of this name would hide a name of the generated text; its kernel is left to stock Triton."""
    return name.startswith("_") or name in _USED_BUILTINS


def texts(shape: Shape) -> tuple[str, str]:
    """(the whole source, the part of it that makes keys), written once for all kernels of one shape: 0.3 ms (EPYC, 2026-11-27)."""
    if any(p.default is not UNSET for p in shape.params):  # 1, 1.0 and True are one in a dict
        return _written(shape)
    return _shared(shape, (compat.drops_large_grids(), compat.drops_even_grids()))


def _written(shape: Shape) -> tuple[str, str]:
    writer = Writer(shape)
    return writer.text(), writer.key_text()


@lru_cache(256)
def _shared(shape: Shape, driver: tuple[bool, bool]) -> tuple[str, str]:
    """`driver`: what the text depends on besides the shape."""
    return _written(shape)


class Writer:
    """Writes the text for one Shape. Each method returns the pieces for one parameter or one step."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.guards: list[str] = ["_rest or _more", "_runtime != _runtime_seen" if shape.knobs_set else "_runtime"]
        self.guards += ["_enter", "_exit", "_pre_run", '"instrumentation_mode" in _compilation']
        self.guards += ["_settings._current is not _settings_seen"]
        self.body: list[str] = []
        self.key: list[str] = []
        self.pointers: list[str] = []
        self.ints: list[str] = []  # those keyed by class
        self._whole = ""

    def text(self) -> str:
        """The whole source: a factory `make` whose parameters are the names the launch function is bound to."""
        shape = self.shape
        self.guards += [f"_globals_{i}.get(_global_name_{i}) is not _global_{i}" for i in range(shape.used_globals)]
        # Kept before defaults take the place of what was not passed: stock Triton tells the two apart.
        self.body += [f"_was_{name} = {name}" for name in self._sometimes()]
        for param, kinds in shape.passed():
            self._constant(param.name, kinds) if param.is_constexpr else self._runtime(param, kinds)
        for name, kinds in shape.options:
            self._constant(name, kinds)
        self._int_classes()
        self._live()
        self._alignment()
        body = self._indent(self.body, 12)
        device = "_device = _current_device()\n" + " " * 12 if shape.has_devices else ""
        key = "(" + ", ".join((["_device"] if shape.has_devices else []) + self.key) + ",)"
        key = key.replace("(,)", "()")
        self._whole = f"""\
def make({", ".join(self.bound_names())}):
    _hits = 0

    def launch(_grid{self._signature()}):
        nonlocal _hits
        if (
            {self._guards()}
        ):
            return _miss(_grid, {self._names()})
        try:
            {device}{body}_launch, {"".join(field + ", " for field in shape.form.fields)}_kernel, _grids, _entry = _table[{key}]
        except KeyError:
            pass
        else:
            {self._before()}{self._grid()}
            _launch({self._call()}){self._after()}
            _hits += 1
            return _kernel
        return _miss(_grid, {self._names(was=True)})

    def key(_grid{self._signature()}):
        {device.replace(" " * 12, " " * 8)}{self._indent(self.body, 8)}return {key}

    def settle(settings):
        nonlocal _settings_seen
        _settings_seen = settings

    return launch, key, settle, lambda: _hits
"""
        return self._whole

    def key_text(self) -> str:
        """The part of `text`, which was asked for before, that makes keys."""
        whole = self._whole
        start, end = whole.index("    def key(_grid"), whole.index("    def settle(settings)")
        return whole[: whole.index("\n") + 1] + whole[start:end] + "    return key\n"

    def _names(self, was: bool = False) -> str:
        """What the caller passed; after defaults have taken the place of what was not, `was` says."""
        names = [f"_was_{name}" if was and name in self._sometimes() else name for name, _ in self._named()]
        return ", ".join([*names, "_rest", "_more"])

    def _named(self) -> list[tuple[str, frozenset[str]]]:
        """What a caller may pass by name, with its kinds."""
        return [(p.name, k) for p, k in self.shape.passed()] + list(self.shape.options)

    def _sometimes(self) -> list[str]:
        """What some callers pass and some do not."""
        return [name for name, kinds in self._named() if "U" in kinds and kinds != {"U"}]

    def bound_names(self) -> list[str]:
        """The parameters of `make`."""
        shape = self.shape
        names = ["_miss", "_table", "_settings", "_settings_seen", "_runtime", "_runtime_seen", "_compilation"]
        names += ["_enter", "_exit", "_pre_run", "_unset", "_exact", "_block_of", "_ints", "_int_rows", "_Tensor", "_Parameter", "_Descriptor", "_Function"]
        names += ["_dtype", "_contents", "_resolve", "_refuse", "_current_device", "_stream", "_heuristics", "_tuner"]
        names += [f"_default_{p.name}" for p in shape.params if p.default is not UNSET]
        return names + [f"_{kind}_{i}" for i in range(shape.used_globals) for kind in ("globals", "global_name", "global")]

    @staticmethod
    def _indent(lines: list[str], width: int) -> str:
        return "".join(line + "\n" + " " * width for line in lines)

    def _signature(self) -> str:
        """Parameters up to the first supplied one by position or keyword, the rest and the options by keyword.

        What is missing, and what `_rest` and `_more` take because the kernel does not, is for stock Triton to refuse.
        """
        params = self.shape.params
        first = next((i for i, p in enumerate(params) if p.supplied), len(params))
        parts = [f"{p.name}=_unset" for p in params if not p.supplied]
        parts.insert(first, "*_rest")
        return "".join(", " + part for part in [*parts, *(f"{name}=_unset" for name, _ in self.shape.options), "**_more"])

    def _guards(self) -> str:
        return "\n            or ".join(self.guards)

    def _constant(self, name: str, kinds: frozenset[str]) -> None:
        """A constexpr or an option: in the key by exact value."""
        only = next(iter(kinds)) if len(kinds) == 1 else "X"
        types = {"I": "int", "B": "bool", "S": "str", "D": "_dtype"}
        if only == "U":
            self.guards.append(f"{name} is not _unset")
        elif only == "N":
            self.guards.append(f"{name} is not None")
        elif only in types:
            self.guards.append(f"type({name}) is not {types[only]}")
            self.key.append(f"id({name})" if only == "D" else name)
        else:
            if "U" in kinds and f"_default_{name}" in self.bound_names():
                self.body += [f"if {name} is _unset:", f"    {name} = _default_{name}"]
            other = f"_exact({name})"
            self.key.append(f"{name} if type({name}) is int else {other}" if "I" in kinds else other)

    def _runtime(self, param: Param, kinds: frozenset[str]) -> None:
        """A run-time argument: its class is in the key, its value goes to the launcher."""
        name = param.name
        if kinds == {"U"}:
            self.guards.append(f"{name} is not _unset")
            return
        left_out = "U" in kinds
        if left_out:
            self.body += [f"if {name} is _unset:", f"    {name} = _default_{name}"]
            kinds = kinds - {"U"} | {kind_of(param.default, False)}
        if kinds <= _TENSORS:
            self._tensor(name, kinds)
        elif kinds == {"M"}:
            self._descriptor(name)
        elif len(kinds) == 1:
            self._scalar(name, next(iter(kinds)), left_out)
        else:
            self._mixed(name, kinds)

    def _tensor(self, name: str, kinds: frozenset[str]) -> None:
        types = {"T": "_Tensor", "P": "_Parameter"}
        self.guards.append(" and ".join(f"type({name}) is not {types[k]}" for k in sorted(kinds, reverse=True)))
        self.guards.append(f"not {name}.{self.shape.tensor_flag}")
        self.body.append(f"_p_{name} = {name}.data_ptr()")
        self.pointers.append(f"_p_{name}")
        self.key += [f"{name}.dtype", *self._bound(name)]

    def _bound(self, name: str) -> list[str]:
        return [f"{name}.untyped_storage().size() <= {LARGEST}"] if self.shape.bounded else []

    def _descriptor(self, name: str) -> None:
        """Triton compiles by type and block; the launcher makes the map from the descriptor itself."""
        self.guards.append(f"type({name}) is not _Descriptor")
        self.guards.append(f"type({name}.base) is not _Tensor or not {name}.base.{self.shape.tensor_flag}")
        self.key += [f"{name}.base.dtype", f"tuple({name}.block_shape)"]

    def _scalar(self, name: str, kind: str, left_out: bool) -> None:
        guard = {"I": f"type({name}) is not int", "F": f"type({name}) is not float", "B": f"type({name}) is not bool"}
        # Guards come before defaults take their places.
        self.guards.append(f"{name} is not _unset and " * left_out + guard.get(kind, f"{name} is not None"))
        if name in self.shape.by_value and kind != "N":
            self.key.append(name)
        elif kind == "I":
            self.ints.append(name)

    def _mixed(self, name: str, kinds: frozenset[str]) -> None:
        """An argument that has been of several kinds: an if-chain that sets pointer, value and key element."""
        keyed = name in self.shape.by_value
        tensor = [f"_a_{name} = _p_{name} = {name}.data_ptr()", f"_k_{name} = {', '.join([f'{name}.dtype', *self._bound(name)])}"]
        cases = {
            "T": (f"type({name}) is _Tensor and {name}.{self.shape.tensor_flag}", tensor),
            "P": (f"type({name}) is _Parameter and {name}.{self.shape.tensor_flag}", tensor),
            "M": (
                f"type({name}) is _Descriptor and type({name}.base) is _Tensor and {name}.base.{self.shape.tensor_flag}",
                [f'_k_{name} = ("map", {name}.base.dtype, *{name}.block_shape)'],
            ),
            "N": (f"{name} is None", [f'_k_{name} = "None"']),
            "I": (f"type({name}) is int", [f"_k_{name} = {name if keyed else f'_ints[{name}]'}"]),
            "F": (f"type({name}) is float", [f'_k_{name} = ("float", {name if keyed else 0})']),
            "B": (f"type({name}) is bool", [f'_k_{name} = ("bool", {name if keyed else 0})']),
        }
        self.body += [f"_a_{name} = 0", f"_p_{name} = {name}"]
        for i, kind in enumerate(k for k in cases if k in kinds):
            condition, lines = cases[kind]
            self.body += [f"{'elif' if i else 'if'} {condition}:"] + ["    " + line for line in lines]
        # The except clause of the caller turns this into a miss.
        self.body += ["else:", f'    raise KeyError("{name}")']
        if kinds & _TENSORS:
            self.pointers.append(f"_a_{name}")
        self.key.append(f"_k_{name}")

    def _int_classes(self) -> None:
        if len(self.ints) == 1:
            self.key.append(f"_ints[{self.ints[0]}]")
        elif self.ints:
            self.body.append(f"_n = ({', '.join(self.ints)})")
            self.key.append("_int_rows[_n]")

    def _live(self) -> None:
        """Heuristics that read tensors are evaluated on each call, over what the caller passed."""
        if not self.shape.live:
            return
        named = ", ".join(f'"{p.name}": {p.name}' for p, k in self.shape.passed() if k != {"U"})
        self.body.append(f"_named = {{{named}}}")
        for name in self.shape.live:
            self.body.append(f'_named["{name}"] = _v_{name} = _heuristics["{name}"](_named)')
            self.key.append(f"_exact(_v_{name})")

    def _alignment(self) -> None:
        """One test for the usual case that every pointer is aligned; else one bit each."""
        if self.pointers:
            bits = ", ".join(f"{p} & 15 == 0" for p in self.pointers)
            self.key.insert(0, f"({' | '.join(self.pointers)}) & 15 and ({bits},)")

    def _before(self) -> str:
        """What stock Triton's autotuner does before a launch whose config it knows."""
        lines = ["_tuner.best_config = _entry.config"] if self.shape.tunes else []
        if self.shape.has_pre_hooks:
            always = [name for name, k in self._named() if "U" not in k]
            pairs = "".join(f'"{name}": {name}, ' for name in always)
            pairs += "".join(f'**({{}} if _was_{name} is _unset else {{"{name}": {name}}}), ' for name in self._sometimes())
            pairs += "".join(f'"{name}": _entry.supplied["{name}"], ' for name in self.shape.hook_sees)
            lines += ["if _entry.config.pre_hook is not None:"]
            lines += [f'    _entry.config.pre_hook({{{pairs}"grid": _grid, "warmup": False, **_entry.config.all_kwargs()}})']
            if self.shape.maps():
                # Hooks fit descriptors to the config; the kernel is for the blocks they chose when it was compiled.
                lines += [f"if ({''.join(f'_block_of({name}), ' for name in self.shape.maps())}) != _entry.blocks:"]
                lines += [f"    return _miss(_grid, {self._names(was=True)})"]
        return self._indent(lines, 12)

    def _after(self) -> str:
        """Refuses a grid that the launcher has taken and dropped."""
        # One number above it is refused by the launcher itself.
        if compat.drops_large_grids():
            dropped = f"_g0 * _g1 * _g2 > {LARGEST}"
        elif compat.drops_even_grids():
            dropped = f"(_programs := _g0 * _g1 * _g2) and not _programs & {2 * LARGEST + 1}"
        else:
            return ""
        return f"\n            if _dims != 1 and {dropped}:\n                _refuse((_g0, _g1, _g2))"

    def _grid(self) -> str:
        """Unpacks a tuple, finds a callable's remembered answer, or asks `_resolve`.

        Two numbers below zero are an empty grid too, though Triton's launcher looks at the product.
        """
        shape = self.shape
        ints = [p.name for p, k in shape.passed() if not p.is_constexpr and k == {"I"}]
        if len(self.ints) > 1:
            ints = ["_n"] + [name for name in ints if name not in self.ints]
        values = [f'"{p.name}": {self._value(p, k)}' for p, k in zip(shape.params, shape.kinds)]
        closure = "_cells if (_cells := _grid.__closure__) is None else tuple(map(_contents, _cells))"
        lines = f"""\
_dims = len(_grid) if type(_grid) is tuple else 0
if _dims == 1:
    _g0 = _grid[0]
    _g1 = _g2 = 1
elif _dims == 2:
    _g0, _g1 = _grid
    _g2 = 1
    if type(_g0) is type(_g1) is int and _g0 < 0 and _g1 < 0:
        return _kernel
elif _dims == 3:
    _g0, _g1, _g2 = _grid
    if type(_g0) is type(_g1) is type(_g2) is int and (_g0 < 0) + (_g1 < 0) + (_g2 < 0) == 2:
        return _kernel
else:
    if _grid is None:
        return _miss(_grid, {self._names(was=True)})
    _g0 = None
    if type(_grid) is _Function:
        _grid_key = (_grid.__code__, {closure}, {"".join(i + ", " for i in ints)})
        try:
            _g0, _g1, _g2 = _grids[_grid_key]
        except (KeyError, TypeError):
            pass
    else:
        _grid_key = None
    if _g0 is None:
        _g0, _g1, _g2 = _resolve(_grid, _grid_key, _grids, {{{", ".join(values)}}})"""
        return lines.replace("\n", "\n" + " " * 12)

    def _value(self, param: Param, kinds: frozenset[str]) -> str:
        """What stock Triton would show a callable grid for this parameter."""
        if param.supplied:
            return f'_entry.supplied["{param.name}"]'
        return f"_default_{param.name}" if kinds == {"U"} else param.name

    def _call(self) -> str:
        stream = f"_stream({'_device' if self.shape.has_devices else '0'})"
        return replace(self.shape.form, parts=tuple(stream if p == "_stream" else p for p in self.shape.form.parts)).text(self._arguments())

    def _arguments(self) -> list[str]:
        """The kernel's arguments as the launcher takes them: pointers as integers, constants ignored."""
        out = []
        for param, kinds in zip(self.shape.params, self.shape.kinds):
            if param.supplied or param.is_constexpr:
                out.append("None")
            elif kinds == {"U"}:
                out.append(f"_default_{param.name}")
            else:
                out.append(f"_p_{param.name}" if kinds <= _TENSORS or self._is_mixed(param, kinds) else param.name)
        return out

    @staticmethod
    def _is_mixed(param: Param, kinds: frozenset[str]) -> bool:
        """True if `_runtime` wrote an if-chain or a pointer for it."""
        known = kinds - {"U"} | ({kind_of(param.default, False)} if "U" in kinds else set())
        return len(known) > 1 or known <= _TENSORS
