"""Random numbers, from the stream and in the order of ATen's CUDA kernels."""

import gems_ops.random.distributions  # noqa: F401
import gems_ops.random.dropout  # noqa: F401
import gems_ops.random.multinomial  # noqa: F401
import gems_ops.random.new  # noqa: F401
import gems_ops.random.normal  # noqa: F401
