"""Indexing: embedding and its gradient."""

from gems_ops.index import lookup, scatter_rows  # noqa: F401  their declarations fill the registry
