"""Indexing: lookups, gathers and scatters."""

import gems_ops.index.advanced  # noqa: F401
import gems_ops.index.along  # noqa: F401
import gems_ops.index.compact  # noqa: F401
import gems_ops.index.lookup  # noqa: F401
import gems_ops.index.reducing  # noqa: F401
import gems_ops.index.scatter_rows  # noqa: F401
import gems_ops.index.searching  # noqa: F401
