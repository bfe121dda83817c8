"""Batch norm and its gradient, under the three names by which F.batch_norm and F.instance_norm reach it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.op import DOUBLES, Declined, Sample, planned
from gems_ops.plan import Code, Plan, Planned
from gems_ops.promote import opmath
from gems_ops.rows.channels import (
    Affine,
    Channels,
    channels_of,
    plan_affine,
    plan_channel_gradient,
    plan_moments,
    strided_like,
)
from gems_ops.rows.norm import dense
from gems_runtime import device

_VECTORS = ("weight", "bias", "running_mean", "running_var")
# Mixed precision: parameters and statistics may be wider than the data.
_WIDER = {name: DOUBLES for name in (*_VECTORS, "save_mean", "save_invstd", "save_var")}


def _channels(x: Tensor, vectors: tuple[Tensor | None, ...]) -> tuple[Channels, torch.dtype]:
    """x's geometry and the parameters' dtype. Declines what is not batch norm of an image in a plain layout."""
    given = [t for t in vectors if t is not None]
    dtypes = {t.dtype for t in given} or {x.dtype}
    if len(dtypes) > 1 or not dtypes <= {x.dtype, opmath(x.dtype)}:
        raise Declined(f"parameters of {dtypes} for {x.dtype}")
    if x.dim() < 2 or any(tuple(t.shape) != (x.shape[1],) or not t.is_contiguous() for t in given):
        raise Declined(f"parameters are not one number for each channel of {tuple(x.shape)}")
    if x.numel() == x.shape[1]:
        raise Declined("one value for each channel has no variance")
    return channels_of(x, "the input"), dtypes.pop()


def _statistics_dtype(x: Tensor, parameters: torch.dtype) -> torch.dtype:
    """What ATen saves mean and 1 / deviation in."""
    return parameters if device.interpreted() else opmath(x.dtype)


def _running(mean: Tensor | None, var: Tensor | None, training: bool) -> tuple[Code, Code] | None:
    if (mean is None) != (var is None) or not training and mean is None:
        raise Declined("running statistics are missing")
    return None if mean is None else (Code("running_mean"), Code("running_var"))


def _forward(
    plan: Plan, x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    training: bool, saves_constants: bool,
) -> Plan:  # fmt: skip
    """Plan y, mean and rstd; of `saves_constants` in evaluation too, where they else are empty."""
    c, parameters = _channels(x, (weight, bias, running_mean, running_var))
    running, n = _running(running_mean, running_var, training), x.shape[1]
    affine = Affine(1, n, None if weight is None else Code("weight"), None if bias is None else Code("bias"))
    plan.has("x", x)
    y = plan.empty("y", x.shape, x.dtype, x.device, x.stride())
    shape, dtype = (n,) if training or saves_constants else (0,), _statistics_dtype(x, parameters)
    saved = tuple(plan.empty(name, shape, dtype, x.device, (1,)) for name in ("mean", "rstd"))
    if training:
        mean, rstd = plan_moments(plan, x, c, saved, dtype, running, Code("momentum"), Code("eps"))
        plan_affine(plan, c, affine, mean, rstd, y)
    else:
        plan_affine(plan, c, affine, *running, y, variance_eps=Code("eps"), saved=saved if saves_constants else None)
    return plan


def _backward(
    plan: Plan, grad: Tensor, x: Tensor, weight: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    save_mean: Tensor | None, save_invstd: Tensor | None, train: bool, mask: tuple[bool, ...],
) -> Planned:  # fmt: skip
    c, parameters = _channels(x, (weight, running_mean, running_var))
    if grad.shape != x.shape or grad.dtype != x.dtype or not any(mask):
        raise Declined(f"a gradient of {grad.dtype} {tuple(grad.shape)} for {x.dtype} {tuple(x.shape)}")
    if mask[1:] != (False, False) and weight is None and not device.interpreted():
        raise Declined("gradients of a weight that is not there")
    if not train and not device.interpreted() and not x.is_contiguous():
        raise Declined("ATen gives another layout")
    n = x.shape[1]
    scale = (Code("save_mean"), Code("save_invstd")) if train else _running(running_mean, running_var, False)
    if train and any(t is None or tuple(t.shape) != (n,) or not t.is_contiguous() for t in (save_mean, save_invstd)):
        raise Declined("the saved statistics are not one number for each channel")
    if train and save_mean.dtype != opmath(x.dtype):
        raise Declined(f"statistics rounded to {save_mean.dtype}, as the CPU saves them, do not undo themselves")
    plan.has("x", x)
    results: list[Code | None] = []
    for name, want in zip(("dx", "dweight", "dbias"), mask, strict=True):
        like = (x.shape, x.dtype, x.device, x.stride()) if name == "dx" else ((n,), parameters, x.device)
        results.append(plan.empty(name, *like) if want else None)
    affine = Affine(1, n, dense(plan, "weight", weight))
    plan_channel_gradient(
        plan, x, c, strided_like(grad, c, tuple(x.shape)), affine, *scale, results, parameters,
        constant=not train, variance_eps=None if train else Code("eps"),
    )  # fmt: skip
    return plan.build(", ".join(str(r) for r in results))


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None,
    training: bool, momentum: float, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """ATen's, with the statistics that a GPU's kernel returns in evaluation where the CPU is asked what is right."""
    y, *saved = torch.native_batch_norm(x, weight, bias, mean, var, training, momentum, eps)
    if not training and x.device.type == "cpu" and not device.interpreted():
        saved = [mean.clone(), torch.rsqrt(var + eps)]
    return y, *saved


def _cudnn_batch_norm(*args: object) -> tuple[Tensor, ...]:
    """What cuDNN returns, from ATen's own kernels."""
    y, *saved = _batch_norm(*args)
    saved = saved if args[5] else [t.new_empty(0) for t in saved]
    return y, *saved, torch.empty(0, dtype=torch.uint8, device=y.device)


def _cudnn_batch_norm_backward(
    x: Tensor, grad: Tensor, weight: Tensor, mean: Tensor, var: Tensor, save_mean: Tensor, save_var: Tensor, eps: float, _: Tensor
) -> tuple[Tensor, ...]:
    return torch.ops.aten.native_batch_norm_backward(grad, x, weight, mean, var, save_mean, save_var, True, eps, [True] * 3)


def _problems(dtype: torch.dtype) -> Iterator[tuple[Tensor, torch.dtype]]:
    """Inputs in ATen's plain layouts, and the dtype of their parameters."""
    for shape in ((2, 3, 4, 5), (7, 3), (2, 3, 9), (2, 3, 2, 3, 4), (1, 5, 80), (40, 70)):
        yield samples.values(shape, dtype), dtype
    yield samples.values((2, 3, 4, 5), dtype).to(memory_format=torch.channels_last), dtype
    yield samples.values((3, 2, 300), dtype, 95.0, 105.0), dtype  # far from 0
    yield samples.values((9, 5, 40, 30), dtype), dtype  # several programs for a channel
    yield samples.values((3, 70, 30, 4), dtype).to(memory_format=torch.channels_last), dtype  # several blocks of channels
    if dtype in (torch.float16, torch.bfloat16):
        yield samples.values((2, 3, 4, 5), dtype), torch.float32


def _vectors(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, bias, running mean and variance."""
    weight, bias, mean = (samples.values((x.shape[1],), dtype, seed=i) for i in (1, 2, 3))
    return weight, bias, mean, samples.values((x.shape[1],), dtype, 0.5, 2.0)


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, parameters in _problems(dtype):
        for training in (True, False):
            yield Sample((x, *_vectors(x, parameters), training, 0.1, 1e-5))
    x = samples.values((2, 3, 4, 5), dtype)
    weight, bias, mean, var = _vectors(x, dtype)
    yield Sample((x, None, None, None, None, True, 0.1, 1e-5))
    yield Sample((x, weight, None, mean, var, False, 0.1, 1e-3))


def _with_statistics(dtype: torch.dtype) -> Iterator[Sample]:
    for sample in _samples(dtype):
        if sample.args[3] is not None:
            yield sample


def _without_statistics(dtype: torch.dtype) -> Iterator[Sample]:
    for sample in _samples(dtype):
        x, weight, bias, _, _, _, momentum, eps = sample.args
        yield Sample((x, weight, bias, True, momentum, eps))


def _backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, parameters in _problems(dtype):
        vectors = _vectors(x, parameters)
        for train in (True, False):
            yield _gradient(x, vectors, train, [True, True, True])
    x = samples.values((2, 3, 4, 5), dtype)
    for mask in ([True, False, False], [False, True, True], [True, True, False]):
        yield _gradient(x, _vectors(x, dtype), True, mask)
    yield _gradient(x, (None,) * 4, True, [True, False, False])


def _gradient(x: Tensor, vectors: tuple[Tensor | None, ...], train: bool, mask: list[bool]) -> Sample:
    weight, bias, mean, var = vectors
    _, *saved = torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, 1e-5)
    if not device.interpreted():  # as a GPU saves them
        saved = [t.to(opmath(x.dtype)) for t in saved]
    grad = samples.values(tuple(x.shape), x.dtype, seed=4)
    grad = grad.as_strided(x.shape, x.stride()) if x.dim() == 4 else grad
    return Sample((grad, x, weight, mean, var, *saved, train, 1e-5, mask))


def _bench(backward: bool, training: bool, channels_last: bool) -> workloads.Workload:
    shape = (64, 256, 56, 56)

    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        x, grad = (workloads.random_like(shape, dtype, where) for _ in range(2))
        if channels_last:
            x, grad = (t.to(memory_format=torch.channels_last) for t in (x, grad))
        weight, bias, mean = (workloads.random_like((256,), torch.float32, where) for _ in range(3))
        var = mean.square() + 0.5
        if not backward:
            return (x, weight, bias, mean, var, training, 0.1, 1e-5), {}
        _, *saved = torch.native_batch_norm(x, weight, bias, mean, var, True, 0.1, 1e-5)
        return (grad, x, weight, mean, var, *saved, training, 1e-5, [True] * 3), {}

    label = "x".join(map(str, shape)) + (" channels_last" if channels_last else "") + ("" if training else " evaluation")
    return workloads.Workload(label, make)


_MODES = ((True, False), (True, True), (False, False))
_CUDNN = frozenset({torch.float32, torch.float64})  # what cuDNN takes beside weights of the same dtype
_INFOS = ("nn.functional.batch_norm", "nn.functional.instance_norm", "native_batch_norm")
_NAMES = ("x", *_VECTORS, "_training", "momentum", "eps")

Decorator = Callable[[Callable[..., Planned]], Callable[..., Planned]]


def _declared(name: str, make: Callable[[torch.dtype], Iterator[Sample]], **fields: object) -> Decorator:
    return planned(f"aten::{name}", dtypes=DOUBLES, argument_dtypes=_WIDER, samples=make, wide=True, **fields)


@_declared("native_batch_norm", _samples, reference=_batch_norm, bench=tuple(_bench(False, *m) for m in _MODES), opinfo=_INFOS)
@_declared("_native_batch_norm_legit", _with_statistics, reference=_batch_norm, opinfo=("_native_batch_norm_legit",))
def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    training: bool, momentum: float, eps: float,
) -> Planned:  # fmt: skip
    """Channels moved to mean 0 and scaled to variance 1, times weight plus bias; the channels' mean and 1 / deviation."""
    vectors = (weight, bias, running_mean, running_var)
    # on a GPU ATen hands on the statistics that it used, on the CPU only those that it found
    return _forward(Plan(*_NAMES), x, *vectors, training, not device.interpreted()).build("y, mean, rstd")


@_declared("_native_batch_norm_legit.no_stats", _without_statistics, opinfo=("_native_batch_norm_legit",))
def batch_norm_without_statistics(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> Planned:
    """batch_norm of statistics that nobody keeps."""
    plan = Plan("x", "weight", "bias", "_training", "momentum", "eps")
    return _forward(plan, x, weight, bias, None, None, training, not device.interpreted()).build("y, mean, rstd")


@_declared(
    "native_batch_norm_backward", _backward_samples, bench=tuple(_bench(True, *m) for m in _MODES), opinfo=_INFOS,
    may_be_empty=frozenset({"save_mean", "save_invstd"}),
)  # fmt: skip
def batch_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    save_mean: Tensor | None, save_invstd: Tensor | None, train: bool, eps: float, mask: list[bool],
) -> Planned:  # fmt: skip
    """Gradients of batch_norm for its input, weight and bias, as output_mask asks for them."""
    names = ("grad", "x", "weight", "running_mean", "running_var", "save_mean", "save_invstd", "_train", "eps", "_mask")
    return _backward(Plan(*names), grad, x, weight, running_mean, running_var, save_mean, save_invstd, train, tuple(mask))


def _cudnn_samples(dtype: torch.dtype) -> Iterator[Sample]:
    if dtype in _CUDNN:
        for sample in _samples(dtype):
            if sample.args[1] is not None and sample.args[2] is not None and sample.args[0].dim() == 4:
                yield sample


def _cudnn_backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    if dtype in _CUDNN:
        for sample in _backward_samples(dtype):
            grad, x, weight, mean, var, save_mean, save_var, train, eps, mask = sample.args
            if weight is not None and train and all(mask) and x.dim() == 4:
                yield Sample((x, grad, weight, mean, var, save_mean, save_var, eps, torch.empty(0, dtype=torch.uint8)))


@planned(
    "aten::cudnn_batch_norm", dtypes=_CUDNN, samples=_cudnn_samples, needs_native=True, wide=True,
    reference=_cudnn_batch_norm,
    bench=tuple(_bench(False, *m) for m in _MODES[:2]), opinfo=_INFOS[:1],
)  # fmt: skip
def cudnn_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    training: bool, momentum: float, eps: float,
) -> Planned:  # fmt: skip
    """batch_norm as F.batch_norm reaches it on an NVIDIA GPU; the last result is memory that cuDNN keeps and we do not need."""
    if bias is None or x.dim() not in (4, 5):
        raise Declined("cuDNN says what is wrong with this")
    plan = _forward(Plan(*_NAMES), x, weight, bias, running_mean, running_var, training, saves_constants=False)
    plan.empty("reserve", (0,), torch.uint8, x.device, (1,))
    return plan.build("y, mean, rstd, reserve")


@planned(
    "aten::cudnn_batch_norm_backward", dtypes=_CUDNN, samples=_cudnn_backward_samples, needs_native=True,
    reference=_cudnn_batch_norm_backward,
    argument_dtypes={"reserveSpace": frozenset({torch.uint8})}, may_be_empty=frozenset({"reserveSpace"}),
    opinfo=_INFOS[:1], wide=True,
)  # fmt: skip
def cudnn_batch_norm_backward(
    x: Tensor, grad: Tensor, weight: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    save_mean: Tensor | None, save_var: Tensor | None, eps: float, reserve: Tensor,
) -> Planned:  # fmt: skip
    """Gradients of cudnn_batch_norm for its input, weight and bias; save_var is 1 / deviation, as batch_norm's."""
    names = ("x", "grad", "weight", "_running_mean", "_running_var", "save_mean", "save_invstd", "eps", "_reserve")
    return _backward(Plan(*names), grad, x, weight, None, None, save_mean, save_var, True, (True, True, True))
