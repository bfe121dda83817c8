"""The declaration of an operator: one record, from which registration, tests, benchmarks and docs are computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gems_ops.workloads import Workload
from gems_runtime import device

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32})
DOUBLES = FLOATS | {torch.float64}
INTS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
BOOL = frozenset({torch.bool})
NUMBERS = DOUBLES | INTS
ALL = NUMBERS | BOOL


class Declined(Exception):
    """Raised by an implementation, before it launches anything, for a call that the native kernel must serve.

    The message is the reason, as `explain()` prints it.
    """


@dataclass(frozen=True)
class Sample:
    """Arguments of one call: tensors on the CPU, in the dtype that was asked for."""

    args: tuple
    kwargs: dict = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Op:
    """One declared ATen overload (or custom operator) and everything that is particular about it."""

    name: str  # schema name: "aten::mm", "aten::add.Tensor", "gems::rms_norm"
    fn: Callable[..., object]
    dtypes: frozenset[torch.dtype]
    samples: Callable[[torch.dtype], Iterable[Sample]]
    bench: tuple[Workload, ...] = ()
    # Other dtypes that single tensor arguments take, by argument name: indices, masks.
    argument_dtypes: dict[str, frozenset[torch.dtype]] = field(default_factory=dict)
    # Builds a closure for one signature of arguments, so that later calls decide nothing. None: call fn.
    plan: Callable[..., Callable[..., object]] | None = None
    scalars: bool = False  # takes Python numbers and 0-dim CPU tensors where the schema says Tensor
    in_place: bool = False  # may write over its first argument while reading it: derives the in-place form
    aliasing: bool = False  # out= may be exactly one of the inputs (same pointer, shape and strides)
    writes_out: bool = True  # takes out=: derives the out= form
    wide: bool = False  # indexes operands of 2**31 elements and more
    resizes_out: bool = False  # the declared form is an out= one, whose tensor arrives empty and is resized
    random: bool = False  # draws from a generator: equal calls differ, and a graph cannot capture them
    waits: bool = False  # the host must wait for the device: a graph cannot capture it
    may_be_empty: frozenset[str] = frozenset()  # tensor arguments without elements in calls that we serve
    # Serves what we decline, where ATen's kernel cannot: called as the schema says, without a dispatch key set.
    native: Callable[..., object] | None = None
    needs_native: bool = False  # routed only where the device has an ATen kernel for it; elsewhere ATen uses its parts
    composite: bool = False  # CompositeImplicitAutograd, and taken all the same: no result is ever differentiable
    keyed: frozenset[str] = frozenset()  # floating point arguments whose values decide the plan
    any_of_equal: bool = False  # gives (values, indices along dim), of equal elements any: the values decide if it is right
    opinfo: tuple[str, ...] = ()  # torch.testing's names of samples for it, where they are not its own name
    reference: Callable[..., object] | None = None  # truth for custom operators; ATen's own for the rest
    error_factor: float = 1.0  # multiplies the common tolerance ...
    error_reason: str = ""  # ... because of this

    @property
    def overload(self) -> torch._ops.OpOverload:
        """The torch.ops object, with the schema."""
        namespace, _, rest = self.name.partition("::")
        packet, _, overload = rest.partition(".")
        return getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")

    @property
    def function_name(self) -> str:
        """The name a user calls: "softmax" for "aten::_softmax"."""
        return self.fn.__name__

    @property
    def placement(self) -> dict[str, torch.device]:
        """Keyword arguments that put the result of an operator without tensor arguments where kernels run."""
        makes = any(a.name == "device" for a in self.overload._schema.arguments)
        return {"device": device.torch_device()} if makes else {}

    @property
    def family(self) -> str:
        """The package that declares it: pointwise, reduce, rows, linalg, index, ..."""
        return self.fn.__module__.split(".")[1]


_registry: dict[str, Op] = {}


def declare(record: Op) -> Op:
    """Add an operator to the registry. A second declaration of one name is a mistake and raises ValueError."""
    if record.name in _registry:
        raise ValueError(f"{record.name} is declared twice: {_registry[record.name].fn.__module__}, {record.fn.__module__}")
    if not record.samples:
        raise ValueError(f"{record.name} has no samples: nothing would test it")
    if record.error_factor != 1.0 and not record.error_reason:
        raise ValueError(f"{record.name} widens its tolerance without a reason")
    _registry[record.name] = record
    return record


def op(
    name: str,
    *,
    dtypes: frozenset[torch.dtype],
    samples: Callable[[torch.dtype], Iterable[Sample]],
    planner: bool = False,
    **fields: object,
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Declare the decorated function as the implementation of `name`; the other fields are those of `Op`.

    The function has the schema's parameters, in order, with the schema's defaults, and after them `out=None`
    (a tuple for several outputs) unless writes_out=False. It is called with tensors that are non-empty, strided,
    exact torch.Tensor, on one device and of the declared dtypes. It returns new tensors in ATen's dtype, shape and
    strides, or writes `out` and returns it, or raises `Declined` before it launches anything.
    """

    def decorate(fn: Callable[..., object]) -> Callable[..., object]:
        writes_out = "out" in inspect.signature(fn).parameters
        if planner:
            fields["plan"] = fn
        declare(Op(name=name, fn=fn, dtypes=dtypes, samples=samples, writes_out=writes_out, **fields))
        return fn

    return decorate


def planned(
    name: str,
    *,
    dtypes: frozenset[torch.dtype],
    samples: Callable[[torch.dtype], Iterable[Sample]],
    **fields: object,
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """As `op`, for a function that builds the plan of `name` (see `Op.plan`) instead of computing anything."""
    return op(name, dtypes=dtypes, samples=samples, planner=True, **fields)


_plain: dict[str, Callable[..., object]] = {}


def plain(fn: Callable[..., object]) -> Callable[..., object]:
    """Offer a function that calls operators, and is none itself, to users under its name."""
    _plain[fn.__name__] = fn
    return fn


def plain_function(name: str) -> Callable[..., object] | None:
    """The function that was offered as `name`."""
    all_ops()
    return _plain.get(name)


def all_ops() -> list[Op]:
    """Every declared operator, by name. Imports the families on first use."""
    import gems_ops.families  # noqa: F401  the declarations fill the registry

    return [_registry[name] for name in sorted(_registry)]


def find(name: str) -> list[Op]:
    """The operators a user means by `name`: a schema name, an ATen base name or a function name."""
    return [o for o in all_ops() if name in (o.name, o.name.split("::")[1], base_name(o.name), o.function_name)]


def base_name(name: str) -> str:
    """"add" for "aten::add.Tensor"."""
    return name.split("::")[1].split(".")[0]


def result_buffer(out: Tensor | None, shape: Iterable[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Where a result of this shape and dtype goes: a new contiguous tensor, or `out` if it is exactly right.

    Declines an `out` that ATen would have to resize or cast into; the native kernel does that, or raises.
    """
    if out is None:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    if out.dtype != dtype or tuple(out.shape) != tuple(shape):
        raise Declined(f"out= is {out.dtype} {tuple(out.shape)}, the result is {dtype} {tuple(shape)}")
    return out
