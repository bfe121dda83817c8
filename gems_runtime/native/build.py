"""The native module from its C file: its identity, and the one command that builds it where no installation did."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).with_name("launch.c")
_FLAGS = ("-O2", "-shared", "-fPIC")
_PATIENCE_S = 120.0


class BuildError(Exception):
    """The module cannot be built here; the message says why."""


@functools.cache
def source_hash() -> str:
    """Names the C file's contents; a module built from it carries it."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]


def built(folder: Path) -> Path:
    """The module for this Python in `folder`, compiled if it is not there. Raises BuildError."""
    library = folder / f"_launch.{source_hash()}.{sysconfig.get_config_var('SOABI')}.so"
    if not library.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _compile(library)
        except OSError as error:
            raise BuildError(f"{folder} cannot hold it ({error}); set GEMS_CACHE_DIR to a writable directory") from None
    return library


def _compile(library: Path) -> None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise BuildError("no C compiler (cc, gcc, clang) is on the path")
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        raise BuildError(f"Python's headers are not in {include}; install the python3-dev package of this Python")
    # Other processes may build it too: each writes a file of its own, and the last to finish gives it the name.
    part = library.with_suffix(f".{os.getpid()}.part")
    command = [compiler, *_FLAGS, f"-I{include}", f'-DSOURCE_HASH="{source_hash()}"', str(SOURCE), "-o", str(part)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{compiler} did not finish in {_PATIENCE_S:.0f} s") from None
    if done.returncode:
        raise BuildError(f"{compiler} failed: {done.stderr.strip()[-300:]}")
    os.replace(part, library)
