"""Texts of launch functions, compiled to Python: at once, or when one is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType


@dataclass(frozen=True)
class Compiled:
    """The functions of one text."""

    launch: Callable[..., object]
    key: Callable[..., tuple]
    settle: Callable[[object], None]  # tells `launch` which settings it may take for unchanged
    hits: Callable[[], int]


@lru_cache(256)
def _code(text: str) -> CodeType:
    # 1 ms, and kernels of one signature have one text: 16 pointwise operators have 4 (EPYC, Python 3.11).
    return compile(text, "<launch function>", "exec")


def compile_text(text: str, bound: dict[str, object]) -> Compiled:
    """The functions of a text, with its free names bound. Errors of a wrong call read as stock Triton's do."""
    scope: dict[str, object] = {}
    exec(_code(text), scope)
    functions = Compiled(*scope["make"](**bound))
    # Stock Triton's binder has this name, and Python puts it in "missing 1 required positional argument".
    functions.launch.__name__ = functions.launch.__qualname__ = "dynamic_func"
    return functions


def deferred(text: str, key_text: str, bound: dict[str, object]) -> Compiled:
    """As `compile_text`, but `launch` is compiled when it is called: where the native tier serves, it hardly ever is.

    Two thirds of a text, 0.5 ms of a first call where no kernel had its signature (EPYC, Python 3.11, 2026-11-27).
    """
    scope: dict[str, object] = {}
    exec(_code(key_text), scope)
    made: list[Compiled] = []

    def whole() -> Compiled:
        if not made:
            made.append(compile_text(text, bound))
        return made[0]

    def settle(settings: object) -> None:
        bound["_settings_seen"] = settings
        for functions in made:
            functions.settle(settings)

    def launch(*args: object, **kwargs: object) -> object:
        return whole().launch(*args, **kwargs)

    return Compiled(launch, scope["make"](**bound), settle, lambda: sum(functions.hits() for functions in made))
