"""Activations."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from gems_ops.op import NUMBERS, Sample
from gems_ops.pointwise.arithmetic import dtypes_differ
from gems_ops.pointwise.bounds import at_least, at_most
from gems_ops.pointwise.brief import brief_gelu
from gems_ops.pointwise.cases import T, few, pairs, plain, several, traffic
from gems_ops.pointwise.declare import pointwise
from gems_ops.samples import Samples, unary

_WIDE = dict(samples=few(-9.0, 9.0), bench=traffic(T))


@triton.jit
def logistic(x):
    """1 / (1 + exp(-x)): exactly 0 and 1 far out, nan stays."""
    return 1.0 / (1.0 + tl.exp(-x))


@pointwise("aten::sigmoid", **_WIDE)
def sigmoid(self):
    """1 / (1 + exp(-self))"""
    return logistic(self)


@pointwise("aten::silu", samples=unary(-9.0, 9.0), bench=traffic(T))
def silu(self):
    """self * sigmoid(self)"""
    return self / (1.0 + tl.exp(-self))


def both(samples: Samples) -> Samples:
    """The samples with each kind of approximation."""
    return lambda dtype: (Sample(s.args, {"approximate": a}) for s in samples(dtype) for a in ("none", "tanh"))


def unknown_approximation(*args: object) -> str | None:
    return None if args[-1] in ("none", "tanh") else f"approximate is {args[-1]!r}"


SQRT_HALF = tl.constexpr(0.70710678118654752440)
SQRT_2_OVER_PI = tl.constexpr(0.79788456080286535588)
CUBIC = tl.constexpr(0.044715)  # of the tanh approximation, Hendrycks and Gimpel 2016


@pointwise("aten::gelu", brief=brief_gelu, samples=both(few(-5.0, 5.0)), bench=traffic(T), when=unknown_approximation)
def gelu(self, approximate):
    """self * P(X <= self) for a standard normal X, exactly or by tanh"""
    if approximate == "none":
        return self * 0.5 * (1.0 + tl.erf(self * SQRT_HALF))
    else:
        # Tensors first: from 3.7 on Triton's interpreter makes a constexpr of a constexpr times a tensor.
        return self * logistic((self + self * CUBIC * self * self) * (2.0 * SQRT_2_OVER_PI))


# Torch's own samples hold nan, at which ATen's CPU kernel of the gradient gives nan or not by the element's place in a vector.
_NO_OPINFO = ("none",)


@pointwise("aten::elu", opinfo=_NO_OPINFO, samples=several(((), {}), ((1.5, 0.7, 2), {})), bench=traffic(T))
def elu(self, alpha, scale, input_scale):
    """scale * self above 0, scale * alpha * (exp(input_scale * self) - 1) below; selu is one of these"""
    return tl.where(self > 0, self * scale, libdevice.expm1(self * input_scale) * (alpha * scale))


def _alpha_is_zero(self: object, alpha: object) -> str | None:
    return "alpha is 0" if alpha == 0 else None


@pointwise(
    "aten::celu", opinfo=_NO_OPINFO, samples=several(((), {}), ((1.5,), {})), bench=traffic(T), when=_alpha_is_zero, keyed=frozenset({"alpha"})
)
def celu(self, alpha):
    """self above 0, alpha * (exp(self / alpha) - 1) below"""
    return tl.where(self > 0, self, libdevice.expm1(self * (1.0 / alpha)) * alpha)


@pointwise("aten::softplus", samples=several(((), {}), ((2, 1.5), {})), bench=traffic(T), in_place=False)
def softplus(self, beta, threshold):
    """log(1 + exp(beta * self)) / beta, and self where beta * self is above the threshold"""
    scaled = self * beta
    return tl.where(scaled > threshold, self, libdevice.log1p(libdevice.exp(scaled)) / beta)


@pointwise("aten::hardtanh", samples=several(((), {}), ((-0.5, 2), {})), bench=traffic(T), rounded=True)
def hardtanh(self, min_val, max_val):
    """self between two numbers"""
    return at_most(at_least(self, min_val), max_val)


@triton.jit
def _ramp(x):
    """0 up to -3, 6 from 3 on, a straight line between; nan stays."""
    return at_most(at_least(x + 3.0, 0.0), 6.0).to(x.dtype)


@pointwise("aten::hardsigmoid", **_WIDE)
def hardsigmoid(self):
    """min(max(self + 3, 0), 6) / 6"""
    return _ramp(self) * (1.0 / 6.0)


@pointwise("aten::hardswish", samples=plain(few(-9.0, 9.0)), bench=traffic(T))
def hardswish(self):
    """self * min(max(self + 3, 0), 6) / 6, infinite near the largest numbers, as on CUDA"""
    return self * _ramp(self) * (1.0 / 6.0)


@pointwise("aten::leaky_relu", samples=several(((), {}), ((0.3,), {})), bench=traffic(T))
def leaky_relu(self, negative_slope):
    """self above 0, negative_slope * self below"""
    return tl.where(self > 0, self, self * negative_slope)


@triton.jit
def tanh_of_softplus(x):
    """tanh(log(1 + e)) = n / (n + 2) with n = e * (e + 2), e = exp(x); 1 where e would overflow."""
    e = libdevice.exp(at_most(x, 20.0).to(x.dtype))
    n = e * (e + 2.0)
    return n / (n + 2.0)


@pointwise("aten::mish", **_WIDE)
def mish(self):
    """self * tanh(log(1 + exp(self)))"""
    return self * tanh_of_softplus(self)


@pointwise("aten::_prelu_kernel", when=dtypes_differ, samples=pairs(mixed=False), bench=traffic(T, T), in_place=False, opinfo=("nn.functional.prelu",))
def prelu(self, weight):
    """self above 0, weight * self below"""
    return tl.where(self > 0, self, weight * self)


@pointwise("aten::threshold", dtypes=NUMBERS, samples=several(((1, 20), {}), ((0.5, -1.5), {}), whole=((1, 20), {})), bench=traffic(T, 0.5, 2.0), rounded=True)  # fmt: skip
def threshold(self, threshold, value):
    """value where self is not above the threshold; nan stays"""
    return tl.where(self <= threshold, value, self)
