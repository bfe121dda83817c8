"""What makes a tuned result valid: the kernel's meaning, the toolchain, the device and the problem, as one key."""

from __future__ import annotations

import ast
import enum
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import triton
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.jit import JITCallable, JITFunction

from gems_runtime import device, settings, toolchain
from gems_runtime.records import Json, canonical, digest



class Unstable(TypeError):
    """A value that has no form which another process would recognise."""


def plain(value: object) -> Json:
    """A JSON form that differs whenever the value does. Raises Unstable for what has none."""
    if isinstance(value, triton.language.constexpr):
        return plain(value.value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, enum.Enum):
        return {"enum": f"{type(value).__module__}:{type(value).__qualname__}.{value.name}"}
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else {"int": hex(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, (triton.language.dtype, torch.dtype)):
        return {"dtype": str(value)}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, JITCallable):
        return {"jit": closure(value)}
    raise Unstable(f"a {type(value).__name__} cannot be part of a tuning key")


def code_of(function: Callable[..., object]) -> Json:
    """Identity of a Python function (a hook, a heuristic): its name, what its code does and what it closes over."""
    if not isinstance(function, types.FunctionType):
        return f"{type(function).__module__}:{type(function).__qualname__}"
    held = [cell.cell_contents for cell in function.__closure__ or ()] + list(function.__defaults__ or ())
    return [function.__qualname__, digest([_code(function.__code__), [_stable(value) for value in held]])]


def _code(code: types.CodeType) -> Json:
    constants = [_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]



def jit_of(kernel: object) -> JITFunction:
    """The JIT function under any nesting of autotuners and heuristics."""
    while not isinstance(kernel, JITCallable):
        kernel = kernel.fn
    return kernel


def kernel_fields(kernel: object) -> dict[str, Json]:
    """Everything about the kernel itself that may change what is compiled."""
    jit = jit_of(kernel)
    return {"name": jit.__name__, "source": closure(jit), "heuristics": _heuristics(kernel)}


def _heuristics(kernel: object) -> Json:
    found = {}
    while not isinstance(kernel, JITCallable):
        if isinstance(kernel, Heuristics):
            found.update({name: code_of(rule) for name, rule in kernel.values.items()})
        kernel = kernel.fn
    return found


def closure(jit: JITCallable) -> str:
    """Digest of the function and of every JIT function and global value it can reach. Comments do not count."""
    parts: dict[str, Json] = {}
    _collect(jit, parts, set())
    return digest([parts[name] for name in sorted(parts)])


def _collect(jit: JITCallable, parts: dict[str, Json], seen: set[int]) -> None:
    if id(jit) in seen:
        return
    seen.add(id(jit))
    text, names = _source(jit.src)
    scope = jit.get_capture_scope()
    values: dict[str, Json] = {}
    for name in names:
        for value in _resolve(name, scope):
            values[name] = _global(value, parts, seen)
    part = [text, values, _parameters(jit), bool(getattr(jit, "noinline", False)), bool(getattr(jit, "debug", False))]
    parts[digest(part)] = part


def _parameters(jit: JITCallable) -> Json:
    # the text shows a default's expression, not the value it had when the function was made
    defaults = {n: p.default for n, p in jit.signature.parameters.items() if p.default is not inspect.Parameter.empty}
    special = [
        [p.do_not_specialize, p.do_not_specialize_on_alignment] for p in getattr(jit, "params", ())
    ]
    return [{n: _stable(v) for n, v in defaults.items()}, special]


@functools.lru_cache(maxsize=None)
def _source(source: str) -> tuple[str, tuple[str, ...]]:
    """The text without comments, docstrings and layout, and the dotted names it reads."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    names = {_dotted(n) for n in ast.walk(tree) if isinstance(n, (ast.Name, ast.Attribute))}
    return ast.unparse(tree), tuple(sorted(names - {""}))


def _dotted(node: ast.AST) -> str:
    """`a.b.c` of a chain of attributes that starts at a name, else the empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = _dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def _resolve(name: str, scope: Mapping[str, object]) -> Iterator[object]:
    """The value behind a dotted name, if it is reached through modules and classes alone.

    A local that has a global's name resolves too: one value too many costs a miss, one too few a wrong answer.
    """
    head, *rest = name.split(".")
    if head not in scope:
        return
    value = scope[head]
    for attribute in rest:
        if not isinstance(value, (types.ModuleType, type)) or not hasattr(value, attribute):
            return
        value = getattr(value, attribute)
    yield value


def _global(value: object, parts: dict[str, Json], seen: set[int]) -> Json:
    if _is_tritons(value):
        return "triton"  # the toolchain's hash covers it
    if isinstance(value, JITCallable):
        _collect(value, parts, seen)
        return {"callee": value.__name__}
    for attribute in getattr(value, "hash_attrs", ()) if getattr(value, "__triton_aggregate__", False) else ():
        _global(attribute, parts, seen)
    return _stable(value)


def _is_tritons(value: object) -> bool:
    owner = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return isinstance(owner, str) and owner.startswith("triton.") and not isinstance(value, triton.language.constexpr)


def _stable(value: object) -> Json:
    """`plain`, or for what a kernel cannot compute with (modules, functions, classes) only what kind it is."""
    try:
        return plain(value)
    except Unstable:
        kind = value if isinstance(value, type) else type(value)
        return {"type": f"{kind.__module__}:{kind.__qualname__}"}


_OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg", "ir_override")


def config_fields(config: triton.Config) -> dict[str, Json]:
    """A configuration with its types: False stays false and None stays null. A hook is named, never stored."""
    fields: dict[str, Json] = {"kwargs": {name: plain(value) for name, value in config.kwargs.items()}}
    fields.update({name: getattr(config, name, None) for name in _OPTIONS})
    if config.pre_hook is not None:
        fields["pre_hook"] = code_of(config.pre_hook)
    return fields


def find_config(fields: Mapping[str, Json], candidates: Iterable[triton.Config]) -> triton.Config | None:
    """The live configuration that these fields describe, with its live hook."""
    wanted = canonical(fields)
    return next((c for c in candidates if canonical(config_fields(c)) == wanted), None)


Bucket = Callable[[str, object], object]


def problem_fields(
    tuner: Autotuner, named: Mapping[str, object], bucket: Bucket = lambda name, value: value
) -> dict[str, Json]:
    """What the call fixes: tuning keys, argument classes as the compiler sees them, constexprs and launch options."""
    jit = jit_of(tuner)
    params = {p.name: p for p in jit.params}
    fixed = {n: v for n, v in named.items() if n not in params or params[n].is_constexpr}
    return {
        "key": {n: _key_value(bucket(n, named[n])) for n in tuner.keys if n in named},
        "arguments": {n: argument_class(v) for n, v in named.items() if n not in fixed},
        "constants": {n: plain(v) for n, v in fixed.items() if n not in tuner.keys},
    }


def _key_value(value: object) -> Json:
    return argument_class(value) if hasattr(value, "dtype") else plain(value)


def argument_class(value: object) -> Json:
    """How the compiler specialises an argument, and for tensors which dimension is dense."""
    if hasattr(value, "data_ptr"):
        return [str(value.dtype), _dense(value), "16" if value.data_ptr() % 16 == 0 else "any"]
    if isinstance(value, bool) or not isinstance(value, int):
        return _other_class(value)
    width = "i32" if -(2**31) <= value < 2**31 else "i64" if value < 2**63 else "u64"
    return [width, "1" if value == 1 else "16" if value % 16 == 0 else "any"]


def _other_class(value: object) -> Json:
    if isinstance(value, (bool, float)):
        return type(value).__name__
    if isinstance(value, (tuple, list)):
        return [argument_class(v) for v in value]
    if hasattr(value, "block_shape"):  # a tensor descriptor
        return ["descriptor", argument_class(value.base), plain(list(value.block_shape))]
    return plain(value)


def _dense(tensor: torch.Tensor) -> str:
    strides = tensor.stride()
    if not isinstance(tensor, torch.Tensor) or tensor.is_contiguous():
        return "dense"
    return ",".join(str(i - len(strides)) for i, s in enumerate(strides) if s == 1) or "strided"



def shared_fields(kernel: object, protocol: Json) -> dict[str, Json]:
    """The part of a key that the problem and the configuration do not change."""
    return {
        "kernel": kernel_fields(kernel),
        "toolchain": toolchain.fields(),
        "knobs": dict(get_cache_invalidating_env_vars()),
        "device": device.identity().fields(),
        "protocol": protocol,
        "salt": settings.current().salt,
    }


def measurement_fields(shared: dict[str, Json], problem: dict[str, Json], config: triton.Config) -> dict[str, Json]:
    """Key of one timed configuration: the exact problem and nothing about the other candidates."""
    return {**shared, "problem": problem, "config": config_fields(config)}


def decision_fields(
    shared: dict[str, Json], problem: dict[str, Json], candidates: Iterable[triton.Config]
) -> dict[str, Json]:
    """Key of a winner: the bucketed problem and the candidates in order (the first is the default)."""
    return {**shared, "problem": problem, "space": digest([config_fields(c) for c in candidates])}
