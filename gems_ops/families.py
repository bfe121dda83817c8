"""Imports every family of operators, so that their declarations fill the registry. One line a family."""

import gems_ops.create  # noqa: F401
import gems_ops.fused  # noqa: F401
import gems_ops.index  # noqa: F401
import gems_ops.linalg  # noqa: F401
import gems_ops.loss  # noqa: F401
import gems_ops.order  # noqa: F401
import gems_ops.pointwise  # noqa: F401
import gems_ops.random  # noqa: F401
import gems_ops.reduce  # noqa: F401
import gems_ops.resolving  # noqa: F401
import gems_ops.rows  # noqa: F401
import gems_ops.scan  # noqa: F401
import gems_ops.shape  # noqa: F401
