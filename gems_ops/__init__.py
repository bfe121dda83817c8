"""gems_ops: ATen operators on gems_runtime."""

from gems_runtime import compat, device

if device.interpreted():
    compat.let_interpreter_loops_run()
    compat.let_interpreter_round_bfloat16()
    compat.let_interpreter_fold_in_blocks()
    compat.let_interpreter_patch_once()
    compat.let_interpreter_call_libdevice()
    compat.let_interpreter_compare_scalars()
    compat.let_interpreter_fuse()
    compat.let_interpreter_overflow()


def __getattr__(name: str) -> object:
    """`pointwise_dynamic`, imported when first asked for: it brings Triton's language with it."""
    if name != "pointwise_dynamic":
        raise AttributeError(f"module 'gems_ops' has no attribute {name!r}")
    from gems_ops.pointwise.dynamic import pointwise_dynamic

    return pointwise_dynamic
