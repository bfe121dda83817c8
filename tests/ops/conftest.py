"""Operator tests run where kernels run: on the GPU, or on Triton's interpreter when there is none."""

import os
import sys

import pytest
import torch

if not torch.cuda.is_available():
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.exit("tests/ops needs a process of its own without a GPU: run `TRITON_INTERPRET=1 pytest tests/ops`", 4)
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported


@pytest.fixture(autouse=True)
def _switched_off():
    """Every test starts and ends with the native kernels, and takes the untuned configuration of every kernel."""
    import flag_gems
    from gems_runtime import settings

    flag_gems.disable()
    with settings.override(tune=settings.Mode.OFF):
        yield
    flag_gems.disable()
