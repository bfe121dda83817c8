"""Index and order kernels under compute-sanitizer: no read or write outside of what was allocated."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from subprocess import run

import pytest

from gems_runtime import settings

pytestmark = pytest.mark.gpu

TESTS = Path(__file__).parents[1]
TOOL = shutil.which("compute-sanitizer")


@pytest.mark.skipif(TOOL is None, reason="NVIDIA's compute-sanitizer is not on the path")
@pytest.mark.parametrize("family", ["index", "order"])
def test_nothing_is_touched_outside_of_tensors(family: str, tmp_path: Path) -> None:
    call = [sys.executable, str(TESTS / "ops" / "memcheck_calls.py"), family]
    path = os.pathsep.join([str(TESTS.parent), *filter(None, sys.path)])
    # torch would hand out pieces of large allocations, inside which the tool sees no borders
    environment = settings.environment(PYTHONPATH=path, TRITON_CACHE_DIR=str(tmp_path), PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    # once without the tool, under which Triton compiles some ten times as slowly
    before = run(call, env=environment, capture_output=True, text=True)
    assert before.returncode == 0, before.stderr[-2000:]
    done = run([TOOL, "--tool", "memcheck", *call], env=environment, capture_output=True, text=True)
    assert "ERROR SUMMARY: 0 errors" in done.stdout, done.stdout[-4000:]
    served = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert served == json.loads(before.stdout.splitlines()[-1]) and all(served.values()), served
