"""Near-shape transfer: a decision that serves a size next to the one it was made for, if its kernel allows it.

Nobody timed the neighbour's configuration at this size, so it is used only where the sizes around say that it is safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gems_runtime.errors import UsageError
from gems_runtime.records import Decision, Json, canonical

DIRECTIONS = ("up", "either")
# A winner that beats the default by this much on both sides may differ from the other side's winner.
_CLEARLY = 0.05


@dataclass(frozen=True)
class Rule:
    """How far a decision may come along one numeric tuning key: `up` takes it from a larger size only."""

    direction: str = "up"
    octaves: float = 1.0


Choice = Mapping[str, "str | Rule"]


def by_key(keys: list[str], choice: Choice | None) -> dict[str, Rule]:
    """The rules of the keys that have one. Raises UsageError for an unknown key or direction."""
    found = {name: rule if isinstance(rule, Rule) else Rule(rule) for name, rule in (choice or {}).items()}
    for name, rule in found.items():
        if name not in keys:
            raise UsageError(f"a transfer rule for {name!r}, which is not among the tuning keys {keys}")
        if rule.direction not in DIRECTIONS:
            raise UsageError(f"the transfer direction {rule.direction!r} of {name} is not one of {', '.join(DIRECTIONS)}")
    return found


def neighbour(
    wanted: dict[str, Json], rules: Mapping[str, Rule], decisions: Iterable[Decision], default: dict[str, Json]
) -> Decision | None:
    """The decision that may serve the problem with the key fields `wanted`; `default` is the configuration it competes with."""
    held = list(decisions)
    for name, rule in rules.items():
        size = wanted["problem"]["key"].get(name)
        if type(size) is int and size > 0:
            found = _between(size, rule, _sizes(wanted, name, held), default)
            if found is not None:
                return found
    return None


def _sizes(wanted: dict[str, Json], name: str, decisions: list[Decision]) -> dict[int, Decision]:
    """Decisions that differ from the wanted problem in this key alone, by its value."""
    same = _without(wanted, name)
    sizes = {d.fields["problem"].get("key", {}).get(name): d for d in decisions if _without(d.fields, name) == same}
    return {size: d for size, d in sizes.items() if type(size) is int and size > 0}


def _without(fields: dict[str, Json], name: str) -> str:
    # the candidates may be others after pruning: the configuration is looked for among the live ones
    rest = {part: value for part, value in fields.items() if part != "space"}
    problem = {part: dict(value) for part, value in fields["problem"].items()}
    for part in ("key", "arguments"):
        problem.get(part, {}).pop(name, None)
    return canonical({**rest, "problem": problem})


def _between(size: int, rule: Rule, sizes: Mapping[int, Decision], default: dict[str, Json]) -> Decision | None:
    reach = {other: abs(math.log2(other / size)) for other in sizes}
    near = sorted((other for other in sizes if reach[other] <= rule.octaves), key=lambda other: (reach[other], other))
    above, below = (next(filter(side, near), None) for side in (lambda n: n >= size, lambda n: n < size))
    if above is None or below is None:
        return None
    chosen = above if rule.direction == "up" else near[0]
    witness = below if chosen == above else above
    return sizes[chosen] if _is_safe(sizes[chosen], sizes[witness], default) else None


def _is_safe(chosen: Decision, witness: Decision, default: dict[str, Json]) -> bool:
    if canonical(chosen.config) == canonical(witness.config):
        return True
    return all(_gain(decision, chosen.config, default) > _CLEARLY for decision in (chosen, witness))


def _gain(decision: Decision, config: dict[str, Json], default: dict[str, Json]) -> float:
    """By how much the configuration beat the default; 0 if one of them has no time."""
    times = {canonical(row[0]): row[1] for row in decision.top}
    ours, theirs = times.get(canonical(config)), times.get(canonical(default))
    return theirs / ours - 1 if ours and theirs else 0.0
