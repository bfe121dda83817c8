"""Who wins: the order of candidates by time, in which noise changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

# Within this share of the best, the order of declaration decides.
TIE = 0.01


def ranked(times_us: Mapping[int, float], incumbent: int | None = None) -> list[int]:
    """Places by time. Those that tie with the best come first: the incumbent, then in the order of declaration."""
    if not times_us:
        return []
    limit = min(times_us.values()) * (1 + TIE)
    return sorted(times_us, key=lambda i: (0.0, i != incumbent, i) if times_us[i] <= limit else (times_us[i], True, i))
