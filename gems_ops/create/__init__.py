"""Creation: tensors of one value, ranges."""

import gems_ops.create.fill  # noqa: F401
import gems_ops.create.ranges  # noqa: F401
