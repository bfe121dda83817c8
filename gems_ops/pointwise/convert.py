"""Conversion between dtypes as ATen's kernels do it."""

import triton
import triton.language as tl


@triton.jit
def converted(x, KIND: tl.constexpr):
    """x as KIND: anything but 0 is True; what becomes a 16-bit float is rounded to float32 first; a negative float wraps as uint8."""
    if x.dtype == KIND:
        return x
    elif KIND == tl.int1:
        return x != 0
    elif KIND == tl.float16 or KIND == tl.bfloat16:
        return tl.cast(tl.cast(x, tl.float32), KIND)
    elif KIND == tl.uint8 and x.dtype.is_floating():
        return tl.cast(tl.cast(x, tl.int64), KIND)
    else:
        return tl.cast(x, KIND)
