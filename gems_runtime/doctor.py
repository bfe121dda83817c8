"""What on this machine may spoil tuning or keep its results from being found: one check after the other."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import triton

from gems_runtime import bench, device, entry, native, settings, store
from gems_runtime.compat import SUPPORTED
from gems_runtime.store import place

# A spread of the middle 60 % of equal launches beyond which configurations within a tenth cannot be told apart.
_NOISE = 0.05


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `state`: ok, note (a choice, or nothing to look at), or bad."""

    name: str
    state: str
    text: str


def checks() -> Iterator[Check]:
    """Every check, in order. Leaves nothing behind but the native module, if that is still to be built."""
    for check in _CHECKS:
        yield from check()


def _versions() -> Iterator[Check]:
    for name, found in (("triton", triton.__version__), ("torch", torch.__version__)):
        low, high = SUPPORTED[name]
        number = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdecimal())
        text = f"{found}; {'.'.join(map(str, low))} to {'.'.join(map(str, high))} are supported"
        yield Check(name, "ok" if low <= number <= high else "bad", text)


def _native() -> Iterator[Check]:
    status = native.native_status()
    yield Check("native tier", "ok" if status.serves else "note", str(status.reason) or "serves launches")


def _launches() -> Iterator[Check]:
    fault = entry.trial_fault() if device.has_gpu() else None
    if fault is None:
        yield Check("trial launch", "note", "not made: there is no NVIDIA GPU")
    elif fault:
        yield Check("trial launch", "bad", f"{fault}; every launch goes through stock Triton")
    else:
        yield Check("trial launch", "ok", "every path passes what stock Triton does")


def _device() -> Iterator[Check]:
    if not device.has_gpu():
        yield Check("device", "note", "no GPU: kernels are compiled for a target and not tuned")
        return
    found = device.identity()
    yield Check("device", "ok", f"{found.name}, {found.arch}, {found.sm_count} multiprocessors")
    yield _noise()


def _noise() -> Check:
    # 256 MiB: long enough that the events' own resolution (0.5 us) is not what is seen
    buffer = torch.empty(1 << 26, device=device.torch_device())
    timing = bench.ColdTimer(budget_ms=20.0)(bench.Launch(lambda: buffer.add_(1)))
    spread = (timing.p80_us - timing.p20_us) / timing.p50_us
    text = f"equal launches differ by {100 * spread:.1f} % of {timing.p50_us:.1f} us (20th to 80th percentile of {timing.n})"
    return Check("clock noise", "ok" if spread < _NOISE else "bad", text)


def _others() -> Iterator[Check]:
    """Other processes on the GPUs, by NVIDIA's own tool."""
    if not device.has_gpu():
        return
    try:
        query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        yield Check("other GPU users", "note", f"not known: {error}")
        return
    others = [line for line in done.stdout.splitlines() if line.strip() and line.split(",")[0].strip() != str(os.getpid())]
    text = f"{len(others)} other processes: pid, memory {'; '.join(others[:5])}" if others else "none"
    yield Check("other GPU users", "bad" if others else "ok", text)


def _store() -> Iterator[Check]:
    choice = settings.current()
    if not choice.store:
        yield Check("store", "note", "GEMS_STORE=0: results are kept in memory only")
        return
    for name, folder in (("store", choice.cache_dir), ("compiled kernels", Path(triton.knobs.cache.dir))):
        problem = place.why_unwritable(folder) or place.distrust(folder)
        yield Check(name, "bad" if problem else "ok", f"{folder}: {problem or 'can be written'}")
    yield from _permissions(choice.cache_dir)
    kind = place.filesystem(choice.cache_dir)
    text = f"{kind or 'unknown'}{': on a network, one file an entry, no locks trusted' if place.is_network(kind) else ''}"
    yield Check("file system", "ok", text)


def _permissions(folder: Path) -> Iterator[Check]:
    if folder.exists():
        mode = stat.S_IMODE(folder.stat().st_mode)
        text = f"{mode:04o}" + (f": others may write to {folder}; chmod 700 it" if mode & 0o022 else "")
        yield Check("permissions", "bad" if mode & 0o022 else "ok", text)


def _diskcache() -> Iterator[Check]:
    if importlib.util.find_spec("diskcache") is None:
        yield Check("diskcache", "note", "missing: results are kept as one file an entry, which is slower to list")
        return
    from gems_runtime.store import disk

    version = importlib.metadata.version("diskcache")
    safe = disk.TextDisk.fetch is not disk.diskcache.Disk.fetch and disk.TextDisk.get is not disk.diskcache.Disk.get
    yield Check("diskcache", "ok" if safe else "bad", f"{version}; rows that are not text are {'refused' if safe else 'READ'}")


def _redis() -> Iterator[Check]:
    remote = store.current().remote
    if remote is None:
        yield Check("redis", "note", "not set up (GEMS_REDIS)")
        return
    where = settings.current().redis.rpartition("@")[2]  # without the password
    yield Check("redis", "ok", f"{where} answers") if remote.answers() else Check("redis", "bad", f"{where} does not answer")


_CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (_versions, _native, _launches, _device, _others, _store, _diskcache, _redis)
