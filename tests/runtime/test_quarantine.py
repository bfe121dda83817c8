"""A stored decision that does not run here: met once, told to the other processes, and never an exception."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton
from void_device import KERNEL, bench, device_with, forget, load

from gems_runtime import candidates, problem, settings, stats, store, tuner
from gems_runtime.errors import StoreMiss
from gems_runtime.fingerprint import config_fields
from gems_runtime.records import Decision, Measurement
from gems_runtime.settings import Mode

# BLOCK=256 does not compile.
SOURCE = KERNEL.replace("    i = tl.program_id(0)", '    tl.static_assert(BLOCK < 256, "too large")\n    i = tl.program_id(0)')


@pytest.fixture(autouse=True)
def void(triton_cache: None) -> Iterator[None]:
    with device_with():
        yield


def prime(kernel: object) -> dict[str, object]:
    return tuner.prime(kernel, (torch.zeros(1024), torch.zeros(1024), 1024), {}, (8,)).kwargs


@pytest.fixture
def kernel(tmp_path: Path) -> object:
    """A kernel whose decision, from somewhere else, is the configuration that does not compile here."""
    found = load(tmp_path, SOURCE).kernel
    bench.reset(1.0, 2.0)
    assert prime(found) == {"BLOCK": 64}
    bad = config_fields(found.configs[2])
    (decision,) = [r for r in store.current().records() if isinstance(r, Decision)]
    store.current().remove(f"m/{r.key}" for r in list(store.current().records()) if isinstance(r, Measurement))
    store._current = None
    store.current().publish(replace(decision, config=bad, top=[[bad, 0.1]]))
    another_process(found)
    return found


def another_process(kernel: object) -> None:
    """Forget what this process knows of the kernel and the store."""
    forget()
    kernel.cache.clear()
    bench.reset(2.0, 1.0)
    stats.reset()


def test_it_is_tuned_again_and_the_next_process_finds_that(kernel: object) -> None:
    assert prime(kernel) == {"BLOCK": 128}
    assert stats.snapshot()["quarantined"] == 1 and bench.count == 2
    another_process(kernel)
    assert prime(kernel) == {"BLOCK": 128}
    assert stats.snapshot()["quarantined"] == 0 and stats.snapshot()["store_hit"] == 1 and bench.count == 0


def test_frozen_takes_the_default_and_only_the_first_process_tries(kernel: object, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    monkeypatch.setattr(problem, "failure_of", lambda call, config: tried.append(config) or candidates.failure_of(call, config))
    with settings.override(tune=Mode.FROZEN):
        for count in (1, 0):
            assert prime(kernel) == {"BLOCK": 64}
            assert stats.snapshot()["quarantined"] == count and len(tried) == 1 and bench.count == 0
            another_process(kernel)


def test_strict_mode_says_that_there_is_none(kernel: object) -> None:
    with settings.override(tune=Mode.STRICT), pytest.raises(StoreMiss):
        prime(kernel)


def test_a_decision_that_works_is_compiled_once(tmp_path: Path) -> None:
    kernel = load(tmp_path).kernel
    bench.reset(3.0, 1.0, 2.0)
    prime(kernel)
    another_process(kernel)
    loads: list[bool] = []
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda *args, cache_hit, **kwargs: loads.append(cache_hit)
        kernel.fn.device_caches.clear()
        assert prime(kernel) == {"BLOCK": 128}
        kernel[(8,)](torch.zeros(1024), torch.zeros(1024), 1024)
    assert loads == [True]
