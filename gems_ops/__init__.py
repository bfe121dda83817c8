"""gems_ops: ATen operators on gems_runtime."""
