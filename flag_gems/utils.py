"""What kernels of one's own are written with: `pointwise_dynamic`, `libentry`, `libtuner`, under the names upstream gave them."""

from gems_ops.pointwise.dynamic import CodeGenConfig, FunctionSchema, PointwiseDynamicFunction, pointwise_dynamic
from gems_runtime import LibEntry, LibTuner, libentry, libtuner

__all__ = [
    "CodeGenConfig",
    "FunctionSchema",
    "LibEntry",
    "LibTuner",
    "PointwiseDynamicFunction",
    "libentry",
    "libtuner",
    "pointwise_dynamic",
]
