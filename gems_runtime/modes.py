"""Scopes of tuning: a stricter mode for a block of code, and the seal that ends warming up."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from gems_runtime import compat, entry, settings
from gems_runtime.errors import SealBroken, UsageError
from gems_runtime.settings import Mode

_log = logging.getLogger(__name__)
ON_COMPILE = ("allow", "warn", "error")
# What a compilation does now; None before the first seal, when nobody listens.
_on_compile: str | None = None


@contextlib.contextmanager
def tune_mode(mode: Mode | str) -> Iterator[Mode]:
    """In the `with` block this mode is in force, or the mode around it if that is stricter; process-wide.

    What kernels chose in another mode is forgotten at both ends, so that a default taken while frozen does not stay.
    """
    wanted = max(Mode(mode), settings.current().tune, key=list(Mode).index)
    if wanted is settings.current().tune:
        yield wanted
        return
    entry.clear_all()
    try:
        with settings.override(tune=wanted):
            yield wanted
    finally:
        entry.clear_all()


class Seal:
    """What `seal()` gives back: `lift()` undoes it, and so does leaving its `with` block."""

    def __init__(self, on_compile: str) -> None:
        global _on_compile
        self._before = _on_compile
        self._scope = contextlib.ExitStack()
        frozen = max(Mode.FROZEN, settings.current().tune, key=list(Mode).index)
        self._scope.enter_context(settings.override(tune=frozen))
        if _on_compile is None:
            compat.chain_compile_listener(_compiled)
        _on_compile = on_compile

    def lift(self) -> None:
        global _on_compile
        _on_compile = self._before or "allow"
        self._scope.close()

    def __enter__(self) -> Seal:
        return self

    def __exit__(self, *error: object) -> None:
        self.lift()


def seal(on_compile: str = "allow") -> Seal:
    """End of warming up: from here on nothing is benchmarked. `on_compile` says what a compilation does then: allow it,
    warn, or raise SealBroken (`error`)."""
    if on_compile not in ON_COMPILE:
        raise UsageError(f"seal(on_compile={on_compile!r}): expected one of {', '.join(ON_COMPILE)}")
    return Seal(on_compile)


def _compiled(found_in_cache: bool, key: str, ms: float) -> None:
    if found_in_cache or _on_compile == "allow":
        return
    message = "a kernel was compiled after seal(): no earlier call had its argument types; warm it, or lift the seal"
    if _on_compile == "error":
        raise SealBroken(message)
    _log.warning(message)
