"""LibEntry against stock Triton: generated calls of a zoo of kernels, each through stock Triton and through every tier.

Both must put the same parameters, grid, block, shared memory, attributes and stream to the driver, show hooks, callable
grids and config hooks the same, and raise the same errors with the same text.

`pytest` makes a share of the calls on a share of the specialisations, the same ones each time. All of them, over 5,000,
are made by `pytest --full tests/runtime/test_entry_differential.py`, and on each supported Triton by tools/triton_matrix.
"""

from __future__ import annotations

import launch_calls
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from launch_families import FAMILIES, Family
from launch_tiers import Comparison

from tools.fake_cuda import FakeCuda

# Calls for each specialisation, and specialisations of each family.
QUICK, FULL = (6, 8), (24, 99)


def _count(family: Family, each: int, most: int) -> int:
    return each * min(most, len(family.combinations()))


def test_all_calls_are_more_than_5000() -> None:
    assert sum(_count(family, *FULL) for family in FAMILIES) >= 5000


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_tier_launches_what_stock_triton_launches(family: Family, fake_cuda: FakeCuda, request: pytest.FixtureRequest) -> None:
    each, most = FULL if request.config.getoption("full") else QUICK
    comparison, count = Comparison(fake_cuda, family), _count(family, each, most)

    # No shrinking: a call is small as it is.
    @settings(max_examples=count, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(launch_calls.calls(family, most))
    def check(call: launch_calls.Call) -> None:
        comparison.check(call)

    check()
    for tier in comparison.tiers:
        served = tier.entry.stats()[tier.name]
        assert served >= count / 4 or not (family.fast or tier.name == "S"), f"tier {tier.name} served {served} of {count} calls"
