"""The native launch tier: one C file, where it comes from, and what the Python path tells it.

`launch.c` serves calls that the Python path has served before; everything else stays where it was. `Source` and `find`
build and load other C files in the same way.
"""

from __future__ import annotations

from gems_runtime.native.build import BuildError, Source
from gems_runtime.native.finding import find
from gems_runtime.native.loading import NativeStatus, module, native_status
from gems_runtime.native.plan import launch_of, plan_of

__all__ = ["BuildError", "NativeStatus", "Source", "find", "launch_of", "module", "native_status", "plan_of"]
