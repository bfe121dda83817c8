"""Matrix products, alone (mv, mm, bmm) and added to a tensor (addmv, addmm, baddbmm, addbmm)."""

from gems_ops.linalg import added, products  # noqa: F401
