"""Finds a native module: the installed one if it was built from this source, else one built now."""

from __future__ import annotations

import importlib.util
import logging
import sys
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

from gems_runtime import settings
from gems_runtime.native.build import Source, built

_log = logging.getLogger(__name__)


def find(source: Source) -> tuple[ModuleType, str]:
    """The module, and where it comes from. Raises ImportError or BuildError."""
    spec = importlib.util.find_spec(source.module)
    if spec is not None and spec.origin and settings.current().native is settings.Native.ON:
        try:
            return _import(source, Path(spec.origin)), f"built at installation: {spec.origin}"
        except ImportError as error:
            # An editable installation keeps its module when the source changes.
            _log.info("the installed native module is not used: %s", error)
    path = built(source, settings.current().cache_dir / "native")
    return _import(source, path), f"built on demand: {path}"


def _import(source: Source, path: Path) -> ModuleType:
    loader = ExtensionFileLoader(source.module, str(path))
    spec = importlib.util.spec_from_file_location(source.module, path, loader=loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    loader.exec_module(found)
    if found.SOURCE_HASH != source.hash:
        raise ImportError(f"{found.__file__} was built from another {source.path.name}; install the package again")
    sys.modules[source.module] = found
    return found
