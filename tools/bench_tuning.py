"""How well the tuner chooses, and what warming costs: the tuning rows of tools/bench store."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import triton

import flag_gems
from gems_ops.routing import ROUTE
from gems_runtime import bench, jobs, settings, tuner
from gems_runtime.candidates import LAUNCH_ERRORS
from gems_runtime.fingerprint import config_fields
from gems_runtime.native.build import LAUNCH, built
from gems_runtime.records import canonical
from tools.figures import ROOT

# Matrix products of 7B and 70B models: projections and feed-forward layers, from one small batch to a long prompt.
_WEIGHTS = ((4096, 4096), (11008, 4096), (4096, 11008), (8192, 8192), (28672, 8192), (1024, 8192))
SHAPES = [(m, n, k) for n, k in _WEIGHTS for m in (64, 256, 1024, 2048, 4096)]
# For warming: the same for every batch from one token to a long prompt, so that start and imports are what they are in use.
WARMED = [(m, n, k) for n, k in _WEIGHTS for m in (1, 16, 64, 256, 512, 1024, 2048, 4096)]
# Rounds of all candidates, two launches each: 1 % of noise in a median of 60.
_ROUND_MS = 400.0


@dataclass(frozen=True)
class Choice:
    """What the tuner chose for a shape, beside every candidate timed for long and in rounds."""

    shape: tuple[int, int, int]
    chosen: str
    best: str
    regret: float
    benchmarks: int


def choices(shapes: list[tuple[int, int, int]] = SHAPES) -> list[Choice]:
    """Tune a cold matrix product of every shape, then time its candidates exhaustively."""
    found: list[Choice] = []
    with tempfile.TemporaryDirectory() as folder, settings.override(cache_dir=Path(folder)), flag_gems.use_gems(include=["mm"]):
        for shape in shapes:
            seen: list[tuner.Choice] = []
            m, n, k = shape
            a, b = torch.randn(m, k, device="cuda", dtype=torch.bfloat16), torch.randn(k, n, device="cuda", dtype=torch.bfloat16)
            with tuner.watching(seen.append):
                a @ b
            found += [_judged(shape, choice) for choice in seen if choice.source == "tuned"]
    return found


def _judged(shape: tuple[int, int, int], choice: tuner.Choice) -> Choice:
    call, working, timer = choice.problem.call, [], bench.ColdTimer()
    for config in choice.problem.candidates:
        try:
            call.launch(config)()
        except LAUNCH_ERRORS:
            continue
        working.append(config)
    timings = timer.compare([call.launch(config) for config in working], _ROUND_MS)
    times = {_name(config): timing.p50_us for config, timing in zip(working, timings)}
    best = min(times, key=times.__getitem__)
    chosen = _name(choice.config)
    return Choice(shape, chosen, best, times[chosen] / times[best] - 1, len(working))


def _name(config: triton.Config) -> str:
    return canonical(config_fields(config))


def choosing() -> Iterator[tuple[str, float, str, float | None]]:
    """Rows: what, value, unit, bound."""
    found = choices()
    regrets = [choice.regret for choice in found]
    yield f"regret of the chosen config, median of {len(found)} mm shapes", 100 * statistics.median(regrets), "%", 2.0
    yield "the same, largest", 100 * max(regrets), "%", None
    yield "shapes where another config is the fastest by more than 1 %", sum(r > 0.01 for r in regrets), "", None
    for choice in sorted(found, key=lambda one: -one.regret)[:3]:
        print("x".join(map(str, choice.shape)), f"{100 * choice.regret:.1f} %", choice.chosen, "best", choice.best, flush=True)


def warming(folder: Path) -> Iterator[tuple[str, float, str, float | None]]:
    """Rows: the same cold warm on one GPU of this host, on all of them, and keeping nothing of a GPU that is disturbed."""
    count = torch.cuda.device_count()
    for source in (LAUNCH, ROUTE):
        built(source, folder / "native")
    start = _warm_seconds(folder / "start", WARMED[:1], "0")
    one, every = (_warm_seconds(folder / name, WARMED, name) for name in ("0", "all"))
    quiet = _warm_seconds(folder / "quiet", WARMED, "0", GEMS_TUNE_QUIET="1")
    yield "warm of one mm shape, one GPU: start and imports", start, "s", None
    yield f"warm of {len(WARMED)} mm shapes in two dtypes, one GPU", one, "s", None
    yield f"the same, {count} GPUs", every, "s", None
    yield f"share of the time that {count} GPUs need", every / one, "", 1 / 1.8 if count == 2 else None
    yield "the same on one GPU with GEMS_TUNE_QUIET=1", quiet, "s", None


def _warm_seconds(folder: Path, of: list[tuple[int, int, int]], devices: str, **settings: str) -> float:
    folder.mkdir()
    # As after an installation, which brings what a copied tree builds in every new store.
    (folder / "gems").mkdir(mode=0o700)
    shutil.copytree(folder.parent / "native", folder / "gems" / "native")
    shapes = [word for shape in of for word in ("--shape", "x".join(map(str, shape)))]
    command = ["warm", "mm", *shapes, "--dtype", "bf16", "--dtype", "fp16", "--devices", devices]
    where = {"GEMS_CACHE_DIR": str(folder / "gems"), "TRITON_CACHE_DIR": str(folder / "triton"), **settings}
    path = os.pathsep.join(filter(None, (str(_installed(folder)), str(ROOT), os.environ.get("PYTHONPATH"))))
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gems_runtime", *command], env={**os.environ, **where, "PYTHONPATH": path}, check=True)
    return time.perf_counter() - began


def _installed(folder: Path) -> Path:
    """A folder for the path in which the operators' entry point is found: a copied tree is not installed."""
    place = folder / "installed" / "gems_runtime-0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: gems-runtime\nVersion: 0\n")
    (place / "entry_points.txt").write_text(f"[{jobs.GROUP}]\ngems_ops = gems_ops.warming\n")
    return place.parent
