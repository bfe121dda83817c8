"""LibEntry against stock Triton: generated calls of a zoo of kernels, each through stock Triton and through every tier.

Both must put the same parameters, grid, block, shared memory, attributes and stream to the driver, show hooks, callable
grids and config hooks the same, and raise the same errors with the same text.

`pytest` makes a share of the calls on a share of the specialisations, the same ones each time. All of them, over 5,000,
are made by `pytest --full tests/runtime/test_entry_differential.py`, and on each supported Triton by tools/triton_matrix.
"""

from __future__ import annotations

from dataclasses import replace

import launch_calls
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from launch_families import FAMILIES, Family
from launch_tiers import Comparison

from tools.fake_cuda import FakeCuda, FakeDriver
from tools.fake_hip import FakeHip

# Calls for each specialisation, and specialisations of each family.
QUICK, QUICK_AMD, FULL = (4, 16), (4, 8), (10, 999)


def _count(family: Family, each: int, most: int) -> int:
    return each * min(most, len(family.combinations()))


def test_all_calls_are_more_than_5000() -> None:
    assert sum(_count(family, *FULL) for family in FAMILIES) >= 5000


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_tier_launches_what_stock_triton_launches(family: Family, fake_cuda: FakeCuda, request: pytest.FixtureRequest) -> None:
    _compare(fake_cuda, family, *(FULL if request.config.getoption("full") else QUICK))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_and_so_on_amd(family: Family, fake_hip: FakeHip, request: pytest.FixtureRequest) -> None:
    # Cooperative launches are left to tier P there.
    is_fast = family.fast and family.name != "stored"
    _compare(fake_hip, replace(family, fast=is_fast), *(FULL if request.config.getoption("full") else QUICK_AMD))


def _compare(fake: FakeDriver, family: Family, each: int, most: int) -> None:
    comparison, count = Comparison(fake, family), _count(family, each, most)

    # Each combination of classes twice: a kernel's launch function is another one once it has met all of them.
    for i, combination in enumerate(family.combinations()[:most] * 2):

        # No shrinking: a call is small as it is.
        @seed(i)
        @settings(max_examples=each // 2, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(launch_calls.calls(family, combination))
        def check(call: launch_calls.Call) -> None:
            comparison.check(call)

        check()
    for tier in comparison.tiers:
        served = tier.entry.stats()[tier.name]
        assert served >= count / 8 or not (family.fast or tier.name == "S"), f"tier {tier.name} served {served} of {count} calls"
