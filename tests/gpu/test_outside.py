"""A place outside of what it indexes is an assert on the device, which ends a process: every call has one of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import run

import pytest

pytestmark = pytest.mark.gpu

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS / "ops"))
from outside import OUTSIDE  # noqa: E402

CALL = """
import json, sys
import torch, flag_gems
from gems_ops.register import counters
from outside import OUTSIDE, at
name, place = sys.argv[1], int(sys.argv[2])
index = at(0, place)
error = ""
with flag_gems.use_gems():
    try:
        OUTSIDE[name](index)
        torch.cuda.synchronize()
    except RuntimeError as failure:
        error = str(failure)
reached = {n: [c.served, c.declined] for n, c in counters().items() if c.served or c.declined}
print(json.dumps({"error": error, "reached": reached}))
sys.stdout.flush()
import os
os._exit(0)  # nothing can be put away on a device that has failed
"""


@pytest.mark.parametrize("place", [4, -5])
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_place_outside_stops_the_program(name: str, place: int) -> None:
    path = [str(TESTS / "ops"), str(TESTS.parent), *sys.path]
    done = run([sys.executable, "-c", f"import sys; sys.path[:0] = {path}\n{CALL}", name, str(place)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "device-side assert" in found["error"], found
    # The device prints which assertion stopped it, and of which file: ours, not one of ATen's kernels.
    stops = [line for line in done.stderr.splitlines() if "Assertion" in line]
    assert stops and not any("ATen" in line for line in stops), done.stderr[-2000:]
    # A call of several kernels fails between two of them, before it is counted: then it was not declined either.
    called = name.split()[0].removesuffix("_put")
    assert not any(declined for reached, (_, declined) in found["reached"].items() if called in reached), found
