"""Shapes: cat."""

import gems_ops.shape.joining  # noqa: F401
