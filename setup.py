"""Builds the native launch tier where there is a C compiler; without one the installation goes on and launches from Python."""

from __future__ import annotations

import hashlib
from pathlib import Path

from setuptools import Extension, setup

SOURCE = "gems_runtime/native/launch.c"
# As gems_runtime.native.build names the source: a module built from another one is not used.
source_hash = hashlib.sha256((Path(__file__).parent / SOURCE).read_bytes()).hexdigest()[:16]
native = Extension(
    "gems_runtime.native._launch",
    [SOURCE],
    define_macros=[("SOURCE_HASH", f'"{source_hash}"')],
    extra_compile_args=["-O2"],
    optional=True,
)
setup(ext_modules=[native])
