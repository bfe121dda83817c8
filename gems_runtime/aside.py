"""The runtime's own tensor arithmetic (comparing answers, clearing a buffer), which an operator library must not serve.

Otherwise a kernel would be judged by its kin, and the first comparison would compile what the user never called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

_scopes: list[Callable[[], contextlib.AbstractContextManager[object]]] = []
_depth = 0


def register(scope: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
    """For a library that overrides operators: `scope()` makes this thread's calls go to the native kernels."""
    _scopes.append(scope)


@contextlib.contextmanager
def natively() -> Iterator[None]:
    """In the `with` block, this thread's tensor operators are the native ones."""
    global _depth
    with contextlib.ExitStack() as stack:
        for scope in _scopes:
            stack.enter_context(scope())
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1


def is_active() -> bool:
    """True while some thread of this process is in a `natively` block."""
    return _depth > 0
