"""Builds the native modules where there is a C compiler; without one the installation goes on and Python does their work."""

from __future__ import annotations

import hashlib
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
HEADER = "gems_runtime/native/dlpack.h"
MODULES = {"gems_runtime.native._launch": "gems_runtime/native/launch.c", "gems_ops.routing._route": "gems_ops/routing/route.c"}


def native(module: str, source: str) -> Extension:
    # As gems_runtime.native.build names the sources: a module built from others is not used.
    source_hash = hashlib.sha256((ROOT / source).read_bytes() + (ROOT / HEADER).read_bytes()).hexdigest()[:16]
    return Extension(
        module,
        [source],
        include_dirs=[str(Path(HEADER).parent)],
        depends=[HEADER],
        define_macros=[("SOURCE_HASH", f'"{source_hash}"')],
        extra_compile_args=["-O2"],
        optional=True,
    )


setup(ext_modules=[native(*item) for item in MODULES.items()])
