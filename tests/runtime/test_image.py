"""A store and compiled kernels in an image that nobody may write to: hits and frozen misses, and not one system call that writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
from test_layers import tree
from void_device import device_with, load

from gems_runtime import settings, store, toolchain, tuner

HERE = Path(__file__).parent
SERVE = """
import sys
from pathlib import Path
import torch, triton, void_device
from gems_runtime import settings, stats, tuner
from gems_runtime.settings import Mode
from gems_runtime.store import rows

image, module = Path(sys.argv[1]), sys.argv[2]
rows.is_writable = lambda directory: False  # root may write anywhere; who serves may not
triton.knobs.cache.dir = str(image / "triton")
with settings.override(cache_dir=image / "gems", tune=Mode.FROZEN, packaged=False), void_device.device_with():
    kernel = void_device.run(image / f"{module}.py").kernel
    blocks = [tuner.prime(kernel, (torch.zeros(1024), torch.zeros(1024), n), {}, (8,)).kwargs["BLOCK"] for n in (1024, 2048)]
counts = stats.snapshot()
print(blocks, counts["store_hit"], counts["default"], counts["benchmark"], counts["compile"])
"""
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|\b(mkdir|rename|unlink|rmdir|link|symlink|chmod|chown|utime|truncate|mknod)\w*\(")


@pytest.mark.skipif(not shutil.which("strace"), reason="strace shows every system call; install it")
def test_serving_from_an_image_writes_nothing(tmp_path: Path, triton_cache: None) -> None:
    image = tmp_path / "image"
    image.mkdir()
    module = load(image)
    for remembered in (toolchain.code_hash, toolchain.code_key, toolchain.assembler_version):
        remembered.cache_clear()  # as in a process that tunes for the first time: it notes them in the image
    with triton.knobs.cache.scope(), settings.override(cache_dir=image / "gems"), device_with():
        triton.knobs.cache.dir = str(image / "triton")
        chosen = tuner.prime(module.kernel, (torch.zeros(1024), torch.zeros(1024), 1024), {}, (8,)).kwargs["BLOCK"]
        store.current().close()
    before, log = tree(image), tmp_path / "calls"
    assert any(name.startswith("gems/toolchain-") for name in before)  # else each process there hashes all of Triton
    command = ["strace", "-f", "-e", "trace=%file", "-s", "4096", "-o", str(log), sys.executable, "-c", SERVE, str(image), module.__name__]
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "ptrace" in done.stderr.lower():
        pytest.skip("system calls may not be traced here")
    assert done.stdout.split("\n")[0] == f"[{chosen}, 64] 1 1 0 0", done.stderr
    lines = [line for line in log.read_text().splitlines() if str(image) in line]
    # Triton makes each kernel's directory if it is not there
    assert len(lines) > 10 and not [line for line in lines if WRITES.search(line) and "EEXIST" not in line]
    assert tree(image) == before
