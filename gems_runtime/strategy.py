"""Which values of a tuning key share one decision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from gems_runtime.errors import UsageError

Strategy: TypeAlias = Callable[[object], object]
# One for every key, one for each key in order, or by key name; keys left out are exact.
Choice: TypeAlias = "str | Strategy | Iterable[str | Strategy] | Mapping[str, str | Strategy] | None"


def exact(value: object) -> object:
    """Every value has its own decision."""
    return value


def log(value: object) -> object:
    """The next power of two: a size shares with those up to twice as small."""
    return 1 << (value - 1).bit_length() if isinstance(value, int) and value > 0 else value


def align32(value: object) -> object:
    """The next multiple of 32."""
    return -(-value // 32) * 32 if type(value) is int else value


STRATEGIES: dict[str, Strategy] = {"exact": exact, "default": exact, "log": log, "align32": align32}


def by_key(keys: list[str], choice: Choice) -> dict[str, Strategy]:
    """The strategy of every key. Raises UsageError for a name or a number of strategies that does not fit."""
    if choice is None or isinstance(choice, str) or callable(choice):
        named = {key: choice or exact for key in keys}
    elif isinstance(choice, Mapping):
        named = {key: exact for key in keys} | dict(choice)
    else:
        named = dict(zip(keys, choices := list(choice)))
        if len(choices) != len(keys):
            raise UsageError(f"{len(choices)} strategies for the {len(keys)} tuning keys {keys}; give one for each")
    unknown = named.keys() - set(keys)
    if unknown:
        raise UsageError(f"a strategy for {sorted(unknown)[0]!r}, which is not among the tuning keys {keys}")
    return {key: known(strategy) for key, strategy in named.items()}


def known(strategy: str | Strategy) -> Strategy:
    """The function that a strategy's name stands for. Raises UsageError."""
    if callable(strategy):
        return strategy
    if strategy not in STRATEGIES:
        raise UsageError(f"unknown strategy {strategy!r}; known: {', '.join(STRATEGIES)}, or give a function")
    return STRATEGIES[strategy]
