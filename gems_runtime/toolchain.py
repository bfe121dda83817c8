"""Identity of the compiler: Triton with its libraries, and the backend's assembler."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import triton
from triton.backends.nvidia import compiler as nvidia
from triton.compiler.compiler import make_backend
from triton.runtime.cache import triton_key

from gems_runtime import settings
from gems_runtime.records import Json, digest
from gems_runtime.store import place

# What `triton_key` hashes, relative to the package.
_HASHED = ("compiler", "backends", "language", "_C", "runtime/cache.py")
_SUFFIXES = (".py", ".so", ".pyd")
_stock_assembler_version = getattr(nvidia, "get_ptxas_version", None)


def fields() -> dict[str, Json]:
    """Triton's version, a hash of its code, and the active backend with its assembler's version."""
    target = triton.runtime.driver.active.get_current_target()
    return {"triton": triton.__version__, "code": code_hash(), "backend": [target.backend, _backend_hash(target)]}


@functools.lru_cache(maxsize=None)
def _backend_hash(target: object) -> str:
    return make_backend(target).hash()


@functools.lru_cache(maxsize=None)
def code_hash() -> str:
    """Hash of Triton's code."""
    return hashlib.sha256(code_key().encode()).hexdigest()[:32]


@functools.lru_cache(maxsize=None)
def code_key() -> str:
    """What Triton's own `triton_key` gives, remembered on disk while no file of Triton changes size or time.

    `triton_key` reads 200 MB or more: 0.7 s with a warm page cache, 2.2 s cold (2-core machine, Triton 3.6).
    """
    return _remembered("", digest([sys.version_info[0], sys.version_info[1], list(_stamps(Path(triton.__file__).parent))]), triton_key)


@functools.lru_cache(maxsize=None)
def assembler_version(arch: int = 80) -> str:
    """What ptxas says of itself, remembered while its file stays: Triton starts a process to ask, 5 ms of a first call."""
    if triton.knobs.nvidia.mock_ptx_version is not None:
        return _stock_assembler_version(arch)
    path = nvidia.get_ptxas(arch).path
    info = os.stat(path)
    return _remembered("-ptxas", digest([path, info.st_size, info.st_mtime_ns]), lambda: _stock_assembler_version(arch))


def recall() -> None:
    """Look now at what is remembered of the compiler, which the first call would else do; what is not is left to it."""
    if _memo("").exists():
        code_key()


def _memo(name: str) -> Path:
    """Where something is remembered; by installation, for several may share a store."""
    return settings.current().cache_dir / f"toolchain{name}-{digest(triton.__file__)[:8]}.json"


def _remembered(name: str, stamp: str, compute: Callable[[], str]) -> str:
    memo = _memo(name)
    known = _read(memo)
    if known.get("stamp") == stamp and isinstance(known.get("key"), str):
        return known["key"]
    key = compute()
    _unkept.append((memo, {"stamp": stamp, "key": key}))
    keep()
    return key


# What is to be remembered as soon as there is a store.
_unkept: list[tuple[Path, dict[str, Json]]] = []


def keep() -> None:
    """Keep the memo beside the store, if there is a store by now: reading alone makes no directory.

    Who makes the store calls this again; else the next process would pay for the memo, and one in a read-only image always.
    """
    while _unkept and _unkept[-1][0].parent.is_dir():
        _remember(*_unkept.pop())


def _stamps(root: Path) -> Iterator[Json]:
    yield str(root)
    for part in _HASHED:
        for folder, subfolders, files in os.walk(root / part) if (root / part).is_dir() else [(root, [], [part])]:
            subfolders.sort()
            for name in sorted(files):
                if name.endswith(_SUFFIXES):
                    info = os.stat(os.path.join(folder, name))
                    yield [name, info.st_size, info.st_mtime_ns]


def _read(memo: Path) -> dict[str, Json]:
    if place.distrust(memo.parent):
        return {}
    try:
        known = json.loads(memo.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memo: Path, known: dict[str, Json]) -> None:
    try:
        with tempfile.NamedTemporaryFile("w", dir=memo.parent, delete=False) as out:
            json.dump(known, out)
        os.replace(out.name, memo)
    except OSError:  # a read-only store: the next process computes it again
        return
