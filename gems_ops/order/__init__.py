"""Order: sort, topk, kthvalue, median, unique."""

import gems_ops.order.nth  # noqa: F401
import gems_ops.order.sorting  # noqa: F401
import gems_ops.order.unique  # noqa: F401
import gems_ops.order.unique_rows  # noqa: F401
