"""Operator tests run where kernels run: on the GPU, or on Triton's interpreter when there is none."""

import os
import sys

import pytest
import torch

if not torch.cuda.is_available():
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.exit("tests/ops needs a process of its own without a GPU: run `TRITON_INTERPRET=1 pytest tests/ops`", 4)
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
elif worker := os.environ.get("PYTEST_XDIST_WORKER"):
    torch.cuda.set_device(int(worker.removeprefix("gw")) % torch.cuda.device_count())
    torch.set_num_threads(1)  # the truth is computed on the CPU, which the other workers need too


@pytest.fixture(autouse=True)
def _switched_off():
    """Every test starts and ends with the native kernels, and takes the untuned configuration of every kernel."""
    import flag_gems
    from gems_runtime import settings

    flag_gems.disable()
    with settings.override(tune=settings.Mode.OFF):
        yield
    flag_gems.disable()
    _end_if_the_device_is_lost()


def _end_if_the_device_is_lost() -> None:
    """A kernel that broke the device has broken this process's CUDA: the test that ran it is named, and a worker replaced."""
    try:
        torch.cuda.is_initialized() and torch.cuda.synchronize()
    except RuntimeError as error:
        print(f"{os.environ.get('PYTEST_CURRENT_TEST')} broke the device: {error}", file=sys.__stderr__, flush=True)
        os._exit(70)
