"""gems_ops: ATen operators on gems_runtime."""

from gems_runtime import compat, device

if device.interpreted():
    compat.let_interpreter_loops_run()
    compat.let_interpreter_round_bfloat16()
    compat.let_interpreter_fold_in_blocks()
    compat.let_interpreter_patch_once()
    compat.let_interpreter_call_libdevice()
    compat.let_interpreter_compare_scalars()
