"""Losses, forward and backward: nll_loss, cross entropy."""

from gems_ops.loss import cross_entropy, nll  # noqa: F401
