"""gems_ops: ATen operators on gems_runtime."""

from gems_runtime import compat, device

if device.interpreted():
    compat.let_interpreter_loops_run()
    compat.let_interpreter_round_bfloat16()
