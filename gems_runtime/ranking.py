"""Who wins: the order of candidates by time, in which noise changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

# Within this share of the best the clock does not decide: what needs less shared memory leaves more room beside it.
TIE = 0.01


def ranked(times_us: Mapping[int, float], incumbent: int | None = None, shared_bytes: Mapping[int, int] = {}) -> list[int]:
    """Places by time. Those that tie with the best come first: the incumbent, then by shared memory, then as declared."""
    if not times_us:
        return []
    limit = min(times_us.values()) * (1 + TIE)
    tied = lambda i: (0.0, i != incumbent, shared_bytes.get(i, 0), i)
    return sorted(times_us, key=lambda i: tied(i) if times_us[i] <= limit else (times_us[i], True, 0, i))
