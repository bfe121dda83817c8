"""Tests of the runtime launch for real, into a recording stand-in for the CUDA driver, and keep their caches to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import triton

from gems_runtime import entry, settings
from tools import fake_cuda as stand_in
from tools import fake_hip as hip_stand_in


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path) -> Iterator[Path]:
    """Every test has a tuning store of its own, which does not exist yet."""
    with settings.override(cache_dir=tmp_path / "gems"):
        yield tmp_path / "gems"


@pytest.fixture(scope="session")
def triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Triton cache for the whole run: compiling is most of the time of these tests."""
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))
        yield


@pytest.fixture
def fake_hip(triton_cache: None) -> Iterator[hip_stand_in.FakeHip]:
    """The same for an AMD GPU."""
    if torch.cuda.is_available():
        pytest.skip("the stand-in for HIP cannot be loaded beside a real driver")
    with hip_stand_in.active() as fake:
        assert entry.trial_fault() == ""
        yield fake


@pytest.fixture
def fake_cuda(triton_cache: None) -> Iterator[stand_in.FakeCuda]:
    """The recording driver, active for one test; tensors on the CPU take the fast tiers."""
    if torch.cuda.is_available():
        pytest.skip("the stand-in for libcuda cannot be loaded beside the real one")
    with stand_in.active() as fake:
        # Else the first test's first launch would make the trial launches, which no test counts.
        assert entry.trial_fault() == ""
        yield fake
