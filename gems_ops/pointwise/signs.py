"""Signs: told, taken from another number, and the step between them."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from gems_ops.op import ALL, NUMBERS
from gems_ops.pointwise.arithmetic import dtypes_differ
from gems_ops.pointwise.cases import T, few, pairs, traffic
from gems_ops.pointwise.declare import pointwise
from gems_ops.promote import Promotion

_ONE = dict(dtypes=NUMBERS, samples=few(), bench=traffic(T))


@triton.jit
def _sign(x):
    return ((x > 0).to(tl.int8) - (x < 0).to(tl.int8)).to(x.dtype)


@pointwise("aten::sign", **_ONE)
def sign(self):
    """-1, 0 or 1; 0 for nan"""
    return _sign(self)


@pointwise("aten::sgn", **_ONE)
def sgn(self):
    """sign, which it is for real numbers"""
    return _sign(self)


_SELF = frozenset({"self"})


@pointwise(
    "aten::signbit", dtypes=ALL, promotion=Promotion.ALWAYS_BOOL, samples=few(), bench=traffic(T), raw=_SELF, promoting=_SELF,
    casts_out=False,
)  # fmt: skip
def signbit(self):
    """self is negative; so are -0 and a nan whose sign is set"""
    if self.dtype.is_floating():
        WIDTH: tl.constexpr = self.dtype.primitive_bitwidth
        return self.to(tl.int16 if WIDTH == 16 else tl.int32 if WIDTH == 32 else tl.int64, bitcast=True) < 0
    elif self.dtype == tl.int1:
        return self != self
    else:
        return self < 0


@pointwise("aten::copysign.Tensor", dtypes=ALL, promotion=Promotion.INT_TO_FLOAT, samples=pairs(number=True), bench=traffic(T, T))
def copysign(self, other):
    """The size of self with the sign of other, be it that of -0"""
    return libdevice.copysign(self, other)


def _kinds_differ(self: object, values: object) -> str | None:
    if not isinstance(self, Tensor) or not isinstance(values, Tensor):
        return "a Python number beside a tensor: ATen has it in one dtype"
    return dtypes_differ(self, values)


@pointwise("aten::heaviside", dtypes=ALL, samples=pairs(mixed=False), bench=traffic(T, T), when=_kinds_differ)
def heaviside(self, values):
    """0 below 0 and for nan, 1 above, values at 0"""
    return tl.where(self == 0, values, (self > 0).to(self.dtype))
