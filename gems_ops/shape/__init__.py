"""Shape: joining, repeating, padding."""

import gems_ops.shape.into_view  # noqa: F401
import gems_ops.shape.joining  # noqa: F401
import gems_ops.shape.padding  # noqa: F401
import gems_ops.shape.padding_backward  # noqa: F401
import gems_ops.shape.repeating  # noqa: F401
