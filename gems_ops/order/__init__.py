"""Order: sort, topk, unique."""

import gems_ops.order.sorting  # noqa: F401
