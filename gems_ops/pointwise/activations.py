"""Activations and their gradients."""

import triton
import triton.language as tl

from gems_ops.pointwise.declare import pointwise
from gems_ops.op import Sample
from gems_ops.samples import Samples, gradients, unary
from gems_ops.workloads import stream


@triton.jit
def _logistic(x):
    """1 / (1 + exp(-x)): exactly 0 and 1 far out, nan stays."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    """From exp of a negative number, so that nothing overflows; a relative error near 0 that callers add 1 to."""
    small = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - small) / (1.0 + small)
    return tl.where(x < 0, -t, t)


@pointwise("aten::sigmoid", samples=unary(-9.0, 9.0), bench=stream(1))
def sigmoid(self):
    """1 / (1 + exp(-self))"""
    return _logistic(self)


@pointwise("aten::silu", samples=unary(-9.0, 9.0), bench=stream(1))
def silu(self):
    """self * sigmoid(self)"""
    return self / (1.0 + tl.exp(-self))


@pointwise("aten::silu_backward", samples=gradients(), bench=stream(2), in_place=False)
def silu_backward(grad_output, self):
    """Gradient of silu"""
    s = _logistic(self)
    return grad_output * s * (1.0 + self * (1.0 - s))


def _both(samples: Samples) -> Samples:
    """The samples with each kind of approximation."""
    return lambda dtype: (Sample(s.args, {"approximate": a}) for s in samples(dtype) for a in ("none", "tanh"))


def _unknown_approximation(*args: object) -> str | None:
    return None if args[-1] in ("none", "tanh") else f"approximate is {args[-1]!r}"


_SQRT_HALF = tl.constexpr(0.70710678118654752440)
_SQRT_2_OVER_PI = tl.constexpr(0.79788456080286535588)
_CUBIC = tl.constexpr(0.044715)  # of the tanh approximation, Hendrycks and Gimpel 2016
_DENSITY_AT_0 = tl.constexpr(0.39894228040143267794)  # 1 / sqrt(2 pi)


@pointwise("aten::gelu", samples=_both(unary(-5.0, 5.0)), bench=stream(1), when=_unknown_approximation)
def gelu(self, approximate):
    """self * P(X <= self) for a standard normal X, exactly or by tanh"""
    if approximate == "none":
        return self * 0.5 * (1.0 + tl.erf(self * _SQRT_HALF))
    else:
        return 0.5 * self * (1.0 + _tanh(_SQRT_2_OVER_PI * (self + _CUBIC * self * self * self)))


@pointwise(
    "aten::gelu_backward", samples=_both(gradients(-5.0, 5.0)), bench=stream(2), in_place=False,
    when=_unknown_approximation,
)  # fmt: skip
def gelu_backward(grad_output, self, approximate):
    """Gradient of gelu"""
    if approximate == "none":
        cdf = 0.5 * (1.0 + tl.erf(self * _SQRT_HALF))
        pdf = _DENSITY_AT_0 * tl.exp(-0.5 * self * self)
        return grad_output * (cdf + self * pdf)
    else:
        t = _tanh(_SQRT_2_OVER_PI * (self + _CUBIC * self * self * self))
        slope = _SQRT_2_OVER_PI * (1.0 + 3.0 * _CUBIC * self * self)
        return grad_output * 0.5 * (1.0 + t + self * (1.0 - t * t) * slope)
