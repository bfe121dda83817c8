"""A native module from its C file: its identity, and the one command that builds it where no installation did."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# What our C files share.
HEADERS = (HERE / "dlpack.h",)
_FLAGS = ("-O2", "-shared", "-fPIC")
_PATIENCE_S = 120.0


class BuildError(Exception):
    """The module cannot be built here; the message says why."""


@dataclass(frozen=True)
class Source:
    """A C file and the module that it becomes."""

    module: str  # with its package
    path: Path

    @functools.cached_property
    def hash(self) -> str:
        """Names the contents of the C file and of the headers; a module built from them carries it."""
        return hashlib.sha256(b"".join(p.read_bytes() for p in (self.path, *HEADERS))).hexdigest()[:16]

    @property
    def name(self) -> str:
        return self.module.rpartition(".")[2]


LAUNCH = Source("gems_runtime.native._launch", HERE / "launch.c")


def built(source: Source, folder: Path) -> Path:
    """The module for this Python in `folder`, compiled if it is not there. Raises BuildError."""
    library = folder / f"{source.name}.{source.hash}.{sysconfig.get_config_var('SOABI')}.so"
    if not library.exists():
        try:
            # private, and the store around it as well: what lies here is loaded into processes
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            _compile(source, library)
        except OSError as error:
            raise BuildError(f"{folder} cannot hold it ({error}); set GEMS_CACHE_DIR to a writable directory") from None
    return library


def _compile(source: Source, library: Path) -> None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise BuildError("no C compiler (cc, gcc, clang) is on the path")
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        raise BuildError(f"Python's headers are not in {include}; install the python3-dev package of this Python")
    # Other processes may build it too: each writes a file of its own, and the last to finish gives it the name.
    part = library.with_suffix(f".{os.getpid()}.part")
    command = [compiler, *_FLAGS, f"-I{include}", f"-I{HERE}", f'-DSOURCE_HASH="{source.hash}"', str(source.path), "-o", str(part)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{compiler} did not finish in {_PATIENCE_S:.0f} s") from None
    if done.returncode:
        raise BuildError(f"{compiler} failed: {done.stderr.strip()[-300:]}")
    os.replace(part, library)
