"""Creation: arange, full."""

import gems_ops.create.fill  # noqa: F401
