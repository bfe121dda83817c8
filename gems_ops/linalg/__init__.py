"""Matrix products: mm, addmm, bmm."""

from gems_ops.linalg import products  # noqa: F401
