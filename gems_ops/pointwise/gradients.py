"""Gradients of activations: grad_output times the slope at what the forward pass read or gave."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from gems_ops.op import BOOL, NUMBERS
from gems_ops.pointwise.activations import (
    CUBIC,
    SQRT_2_OVER_PI,
    SQRT_HALF,
    both,
    logistic,
    tanh_of_softplus,
    unknown_approximation,
)
from gems_ops.pointwise.arithmetic import dtypes_differ
from gems_ops.pointwise.brief import brief_gelu_backward
from gems_ops.pointwise.cases import T, backward, mask_gradient, plain, traffic, triples
from gems_ops.pointwise.declare import pointwise
from gems_ops.samples import gradients

# Samples are plain where ATen's CPU kernels treat nan in one dtype as in another they do not; ours do as CUDA's.
_TWO = dict(samples=backward(), bench=traffic(T, T), in_place=False)


@pointwise("aten::sigmoid_backward", **_TWO)
def sigmoid_backward(grad_output, output):
    """From sigmoid's result"""
    return grad_output * (1.0 - output) * output


@pointwise("aten::tanh_backward", **_TWO)
def tanh_backward(grad_output, output):
    """From tanh's result"""
    return grad_output * (1.0 - output * output)


@pointwise("aten::silu_backward", samples=gradients(), bench=traffic(T, T), in_place=False)
def silu_backward(grad_output, self):
    """Gradient of silu"""
    s = logistic(self)
    return grad_output * s * (1.0 + self * (1.0 - s))


_DENSITY_AT_0 = tl.constexpr(0.39894228040143267794)  # 1 / sqrt(2 pi)


@pointwise(
    "aten::gelu_backward", brief=brief_gelu_backward, samples=both(backward(low=-5.0, high=5.0)), bench=traffic(T, T), in_place=False,
    when=unknown_approximation,
)  # fmt: skip
def gelu_backward(grad_output, self, approximate):
    """Gradient of gelu"""
    if approximate == "none":
        cdf = 0.5 * (1.0 + tl.erf(self * SQRT_HALF))
        pdf = _DENSITY_AT_0 * tl.exp(-0.5 * self * self)
        return grad_output * (cdf + self * pdf)
    else:
        t = libdevice.tanh((self + self * self * self * CUBIC) * SQRT_2_OVER_PI)
        slope = SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * self * self)
        return grad_output * 0.5 * (1.0 + t + self * (1.0 - t * t) * slope)


@pointwise(
    "aten::threshold_backward", dtypes=NUMBERS, samples=backward(0), bench=traffic(T, T, 0.0), in_place=False,
    rounded=True, order=("self", "grad_output"), opinfo=("nn.functional.relu", "nn.functional.threshold"),
)  # fmt: skip
def threshold_backward(grad_output, self, threshold):
    """0 where self is not above the threshold; also relu's gradient"""
    return tl.where(self <= threshold, 0, grad_output).to(grad_output.dtype)


@pointwise("aten::elu_backward", samples=plain(backward(1.5, 0.7, 2, False, tensor_last=True)), bench=traffic(T, 1.0, 1.0, 1.0, False, T), in_place=False)
def elu_backward(grad_output, alpha, scale, input_scale, is_result, self_or_result):
    """From elu's argument, or its result where the forward pass was in place"""
    negative = alpha * scale
    if is_result:
        below = grad_output * input_scale * (self_or_result + negative)
    else:
        below = grad_output * input_scale * negative * libdevice.exp(self_or_result * input_scale)
    return tl.where(self_or_result <= 0, below, grad_output * scale)


@pointwise("aten::softplus_backward", samples=backward(2, 1.5), bench=traffic(T, T, 1.0, 20.0), in_place=False)
def softplus_backward(grad_output, self, beta, threshold):
    """Gradient of softplus"""
    scaled = self * beta
    z = libdevice.exp(scaled)
    return tl.where(scaled > threshold, grad_output, grad_output * z / (z + 1.0))


@pointwise("aten::hardtanh_backward", samples=plain(backward(-0.5, 2)), bench=traffic(T, T, -1.0, 1.0), in_place=False)
def hardtanh_backward(grad_output, self, min_val, max_val):
    """0 at the limits and outside; grad_output where self is nan, as on CUDA (ATen's CPU kernel gives 0)"""
    return tl.where((self <= min_val) | (self >= max_val), 0.0, grad_output).to(grad_output.dtype)


@pointwise("aten::hardsigmoid_backward", samples=backward(low=-5.0, high=5.0), bench=traffic(T, T), in_place=False)
def hardsigmoid_backward(grad_output, self):
    """A sixth between -3 and 3"""
    return tl.where((self > -3.0) & (self < 3.0), grad_output * (1.0 / 6.0), 0.0).to(grad_output.dtype)


@pointwise("aten::hardswish_backward", samples=plain(backward(low=-5.0, high=5.0)), bench=traffic(T, T), in_place=False)
def hardswish_backward(grad_output, self):
    """Gradient of hardswish"""
    inner = tl.where(self < 3.0, grad_output * (self / 3.0 + 0.5), grad_output)
    return tl.where(self <= -3.0, 0.0, inner).to(grad_output.dtype)


@pointwise("aten::leaky_relu_backward", order=("self", "grad_output"), samples=backward(0.3, False), bench=traffic(T, T, 0.01, False), in_place=False)
def leaky_relu_backward(grad_output, self, negative_slope, self_is_result):
    """grad_output above 0, negative_slope * grad_output below; the sign of argument and result is the same"""
    return tl.where(self > 0, grad_output, grad_output * negative_slope)


@pointwise("aten::mish_backward", **_TWO)
def mish_backward(grad_output, self):
    """Gradient of mish"""
    t = tanh_of_softplus(self)
    return grad_output * (t + self * logistic(self) * (1.0 - t * t))


@pointwise("aten::_prelu_kernel_backward", when=dtypes_differ, order=("self", "weight", "grad_output"), samples=triples(), bench=traffic(T, T, T), in_place=False)
def prelu_backward(grad_output, self, weight):
    """(gradient of self, gradient of weight for each element)"""
    above = self > 0
    return tl.where(above, grad_output, weight * grad_output), tl.where(above, 0.0, self * grad_output).to(grad_output.dtype)


@pointwise(
    "aten::native_dropout_backward", samples=mask_gradient(), argument_dtypes={"mask": BOOL}, raw=frozenset({"mask"}),
    in_place=False,
)  # fmt: skip
def dropout_backward(grad_output, mask, scale):
    """grad_output * mask * scale"""
    return grad_output * mask.to(grad_output.dtype) * scale
