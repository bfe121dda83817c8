"""`pointwise_dynamic`: any scalar `@triton.jit` function as an operator that broadcasts, promotes and takes any strides."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from gems_ops.layout import has_overlap
from gems_ops.plan import Code, Plan, Planned
from gems_ops.pointwise.codegen import KNOWN
from gems_ops.pointwise.engine import Dtypes, Pointwise
from gems_ops.pointwise.tiling import Tiling
from gems_ops.pointwise.walk import Mode
from gems_ops.promote import Promotion, elementwise_strides, promoted

Number = bool | int | float
PLANS = 4096  # plans that a function keeps; past it the table starts over


@dataclass(frozen=True)
class CodeGenConfig:
    """Bounds on what is generated. Tiles are addressed by pointers, and grids have one dimension."""

    max_tile_size: int = 4096  # elements of a program
    max_grid_size: tuple[int, int, int] = (2**31 - 1, 65535, 65535)
    max_num_warps_per_cta: int = 32
    prefer_block_pointer: bool = False
    prefer_1d_tile: bool = False  # walk all layouts by one running index

    @property
    def tiling(self) -> Tiling:
        return Tiling(self.max_tile_size, self.max_tile_size, self.max_num_warps_per_cta)


class FunctionSchema:
    """What the arguments of a scalar function are, and how the dtypes of its results follow from them."""

    def __init__(
        self,
        *,
        num_inputs: int | None = None,
        is_tensor: Sequence[bool] | None = None,
        dtypes: Sequence[type | None] | None = None,
        num_outputs: int | None = None,
        promotion_methods: Sequence[tuple] | None = None,
    ) -> None:
        if promotion_methods is None:
            raise ValueError("promotion_methods is missing: one tuple per output, such as (0, 1, 'DEFAULT')")
        given = next((len(v) for v in (is_tensor, dtypes) if v is not None), num_inputs)
        if given is None:
            raise ValueError("nothing says how many inputs there are: give num_inputs, is_tensor or dtypes")
        self._promotion = [_promotion(method) for method in promotion_methods]
        self._is_tensor = [True] * given if is_tensor is None else list(is_tensor)
        if is_tensor is None and dtypes is not None:
            self._is_tensor = [kind is None for kind in dtypes]
        self._dtypes = [None] * given if dtypes is None else list(dtypes)
        self._check(num_inputs, num_outputs)

    def _check(self, num_inputs: int | None, num_outputs: int | None) -> None:
        n = len(self._is_tensor)
        assert num_inputs in (None, n), f"num_inputs is {num_inputs}, is_tensor or dtypes have {n}"
        assert len(self._dtypes) == n, f"dtypes has {len(self._dtypes)} entries for {n} inputs"
        assert all(isinstance(v, bool) for v in self._is_tensor), f"is_tensor holds other than booleans: {self._is_tensor}"
        assert all(v is None or isinstance(v, type) for v in self._dtypes), f"dtypes holds other than types: {self._dtypes}"
        assert self._promotion, "a pointwise function has one output at least"
        assert num_outputs in (None, len(self._promotion)), (
            f"num_outputs is {num_outputs}, promotion_methods has {len(self._promotion)}"
        )
        wrong = [i for indices, _ in self._promotion for i in indices if not 0 <= i < n]
        assert not wrong, f"promotion_methods names the arguments {wrong} of {n}"

    def num_inputs(self) -> int:
        return len(self._is_tensor)

    def num_outputs(self) -> int:
        return len(self._promotion)

    def is_tensor(self, arg_id: int) -> bool:
        return self._is_tensor[arg_id]

    def input_type(self, arg_id: int) -> type | None:
        """The Python type of a number, if it was named."""
        return self._dtypes[arg_id]

    def output_type(self, i: int) -> tuple[tuple[int, ...], Promotion]:
        """(arguments whose dtypes decide, kind of promotion) of an output."""
        return self._promotion[i]

    def num_input_tensors(self) -> int:
        return sum(self._is_tensor)

    def num_output_tensors(self) -> int:
        return self.num_outputs()

    def num_non_tensor_args(self) -> int:
        return self.num_inputs() - self.num_input_tensors()

    def input_index(self, idx: int) -> int:
        """The place of argument `idx` among the tensors, or among the numbers."""
        return sum(kind == self._is_tensor[idx] for kind in self._is_tensor[:idx])

    def signature(self, outputs_in_arg: bool = False) -> str:
        """For people: "Pointwise: Tensor, float -> Tensor"."""
        kinds = zip(self._is_tensor, self._dtypes, strict=True)
        inputs = ["Tensor" if tensor else kind.__name__ if kind else "number" for tensor, kind in kinds]
        outputs = ["Tensor"] * self.num_outputs()
        return f"Pointwise: {', '.join(inputs + outputs if outputs_in_arg else inputs)} -> {', '.join(outputs)}"

    def __str__(self) -> str:
        return self.signature()


def _promotion(method: Sequence[object]) -> tuple[tuple[int, ...], Promotion]:
    *indices, kind = method
    assert all(isinstance(i, int) for i in indices), f"{method} names arguments by other than their indices"
    assert isinstance(kind, Promotion) or kind in Promotion.__members__, f"{method} ends with no kind of promotion"
    return tuple(indices), kind if isinstance(kind, Promotion) else Promotion[kind]


class PointwiseDynamicFunction:
    """Calls the scalar function on every element of its arguments, broadcast against each other.

    Results go to new tensors, in the dtypes that `promotion_methods` say, or to those given as out0=, out1=, ...; their
    strides are those ATen would give. There is no gradient.
    """

    def __init__(self, schema: FunctionSchema, scalar: triton.JITFunction, config: CodeGenConfig | None = None) -> None:
        self.schema, self.scalar = schema, scalar
        self.config = config or CodeGenConfig()
        names = tuple(inspect.signature(scalar.fn).parameters)
        if len(names) != schema.num_inputs():
            raise ValueError(f"{scalar.fn.__name__} takes {len(names)} arguments, its schema has {schema.num_inputs()}")
        self._outs = tuple(f"out{i}" for i in range(schema.num_outputs()))
        mode = Mode.LINE if self.config.prefer_1d_tile else None
        self._engine = Pointwise(
            scalar, names, frozenset(), raw=frozenset(names), outputs=schema.num_outputs(), mode=mode, most=self.config.tiling
        )
        self._plans: dict[tuple, Planned] = {}

    def __call__(self, *args: Tensor | Number, **outs: Tensor) -> Tensor | tuple[Tensor, ...]:
        unknown = set(outs) - set(self._outs)
        if unknown:
            raise TypeError(f"{self.scalar.fn.__name__} has the outputs {self._outs}, not {sorted(unknown)}")
        given = tuple(outs.get(name) for name in self._outs)
        key = tuple([_key(v) for v in (*args, *given)])
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._plan(args, given)
        return plan(*args, *given)

    def instantiate(self, ndim: int) -> Callable[..., Tensor | tuple[Tensor, ...]]:
        """The function for tensors of `ndim` dimensions and one shape: it broadcasts nothing and needs every out0=, ..."""

        def call(*args: Tensor | Number, **outs: Tensor) -> Tensor | tuple[Tensor, ...]:
            missing = [name for name in self._outs if name not in outs]
            shapes = {tuple(v.shape) for v in (*args, *outs.values()) if isinstance(v, Tensor)}
            if missing or len(shapes) != 1 or len(next(iter(shapes))) != ndim:
                raise ValueError(f"instantiate({ndim}) takes {self._outs} and tensors of one shape, got {outs.keys()} and {shapes}")
            return self(*args, **outs)

        return call

    def _plan(self, args: tuple, outs: tuple[Tensor | None, ...]) -> Planned:
        self._check(args, outs)
        tensors = [v for v in args if isinstance(v, Tensor)]
        shape = tuple(torch.broadcast_shapes(*(t.shape for t in tensors)))
        plan = Plan(*self._engine.names, *(f"given{i}" for i in range(len(outs))))
        targets = [self._target(i, out, args, tensors, shape) for i, out in enumerate(outs)]
        where = next(t.device for t in tensors)
        written = [
            Code(f"given{i}") if out is not None else plan.empty(f"new{i}", shape, target.dtype, where, target.stride())
            for i, (out, target) in enumerate(zip(outs, targets, strict=True))
        ]
        if 0 not in shape:
            fractions = frozenset(n for n, v in zip(self._engine.names, args, strict=True) if type(v) is float)
            engine = replace(self._engine, raw=self._engine.raw - fractions, floats=fractions)
            wide = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
            engine.launch(plan, args, targets, written, Dtypes(wide, wide, wide))
        return plan.build(written[0] if len(written) == 1 else f"({', '.join(written)})")

    def _target(
        self, i: int, out: Tensor | None, args: tuple, tensors: list[Tensor], shape: tuple[int, ...]
    ) -> Tensor:
        """The given output, or one of the meta device that says what a new one shall be."""
        if out is None:
            indices, kind = self.schema.output_type(i)
            dtype = promoted([args[i] for i in indices], kind)[1]
            return torch.empty_strided(shape, elementwise_strides(tensors, shape, None), dtype=dtype, device="meta")
        if tuple(out.shape) != shape or has_overlap(out.shape, out.stride()):
            raise ValueError(f"{self._outs[i]} is {tuple(out.shape)} of strides {out.stride()}, the result is {shape}")
        return out

    def _check(self, args: tuple, outs: tuple) -> None:
        name = self.scalar.fn.__name__
        kinds = [self.schema.is_tensor(i) for i in range(self.schema.num_inputs())]
        if len(args) != len(kinds) or any(tensor and not isinstance(v, Tensor) for v, tensor in zip(args, kinds, strict=True)):
            raise TypeError(f"{name} is {self.schema}, got {[type(v).__name__ for v in args]}")
        tensors = [v for v in (*args, *outs) if isinstance(v, Tensor)]
        if not tensors or len({t.device for t in tensors}) > 1:
            raise ValueError(f"{name} takes tensors of one device, got {[str(t.device) for t in tensors]}")
        if {t.dtype for t in tensors} - KNOWN:
            raise TypeError(f"{name} takes dtypes that kernels have, got {[str(t.dtype) for t in tensors]}")


def _key(value: object) -> object:
    """Everything a plan depends on."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride(), value.device
    return value if value is None or isinstance(value, str) else type(value)


def pointwise_dynamic(
    f: triton.JITFunction | None = None,
    *,
    num_inputs: int | None = None,
    is_tensor: Sequence[bool] | None = None,
    dtypes: Sequence[type | None] | None = None,
    num_outputs: int | None = None,
    promotion_methods: Sequence[tuple] | None = None,
    config: CodeGenConfig | None = None,
) -> PointwiseDynamicFunction | Callable[[triton.JITFunction], PointwiseDynamicFunction]:
    """Make an operator of a scalar `@triton.jit` function, as a decorator or called with it.

    `promotion_methods` has a tuple per output: the arguments whose dtypes decide, then the name of an
    ELEMENTWISE_TYPE_PROMOTION_KIND of torch. `is_tensor` says which arguments are tensors (default: all), `dtypes` the
    Python types of the others. Tensors are loaded, and numbers passed, in their own dtypes;
    fractions as float32, beside float64 tensors as float64.
    """

    def decorate(scalar: triton.JITFunction) -> PointwiseDynamicFunction:
        count = num_inputs
        if count is None and is_tensor is None and dtypes is None:
            count = len(inspect.signature(scalar.fn).parameters)
        schema = FunctionSchema(
            num_inputs=count, is_tensor=is_tensor, dtypes=dtypes, num_outputs=num_outputs, promotion_methods=promotion_methods
        )
        return PointwiseDynamicFunction(schema, scalar, config)

    return decorate if f is None else decorate(f)
