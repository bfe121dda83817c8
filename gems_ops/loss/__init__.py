"""Losses against class indices: nll_loss, forward and backward."""

from gems_ops.loss import nll  # noqa: F401
