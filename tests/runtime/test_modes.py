"""Tuning modes: what each may do, refreshing by a paired test, scopes, and the seal."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import triton
from triton.runtime.errors import OutOfResources
from void_device import KERNEL, bench, device_with, forget, load

from gems_runtime import LibEntry, device, modes, problem, seal, settings, stats, store, surroundings, tune_mode, tuner
from gems_runtime.errors import SealBroken, StoreMiss, UsageError
from gems_runtime.launch import count_compiles
from gems_runtime.records import Decision
from gems_runtime.settings import Mode

pytestmark = pytest.mark.usefixtures("void")
GRID = (8,)


@pytest.fixture
def void(triton_cache: None) -> Iterator[None]:
    bench.reset()
    stats.reset()
    with device_with():
        yield


def prime(kernel: object, n: int = 1024, **kwargs: object) -> int:
    return tuner.prime(kernel, (torch.zeros(1024), torch.zeros(1024), n), kwargs, GRID).kwargs["BLOCK"]


def refreshed(kernel: object, *times: float) -> int:
    bench.reset(*times)
    with settings.override(tune=Mode.REFRESH):
        return prime(kernel)


def test_frozen_benchmarks_nothing_for_ten_thousand_shapes(tmp_path: Path) -> None:
    kernel = load(tmp_path, KERNEL.replace("callee(tl.load(x_ptr + i)) + STEP", "tl.load(x_ptr + i)")).kernel
    prime(kernel)
    bench.reset()
    draw = random.Random(4)
    with settings.override(tune=Mode.FROZEN):
        for _ in range(10_000):
            prime(kernel, draw.randrange(1, 1 << 40))
    assert bench.count == 0 and stats.snapshot()["tune"] == 1 and stats.snapshot()["default"] > 9_900
    assert sum(isinstance(r, Decision) for r in store.current().records()) == 1


def test_refresh_times_everything_again_and_takes_what_is_better(tmp_path: Path) -> None:
    kernel = load(tmp_path).kernel
    assert prime(kernel) == 64
    assert refreshed(kernel, 3.0, 2.0, 1.0) == 256 and bench.count == 3
    forget()
    assert prime(kernel) == 256


def test_refresh_keeps_what_was_there_unless_it_is_clearly_beaten(tmp_path: Path) -> None:
    kernel = load(tmp_path).kernel
    assert refreshed(kernel, 3.0, 2.0, 1.0) == 256
    assert refreshed(kernel, 1.0, 2.0, 1.005) == 256
    assert refreshed(kernel, 1.0, 2.0, 1.02) == 64


def test_a_pinned_decision_is_kept_through_refresh(tmp_path: Path) -> None:
    kernel = load(tmp_path).kernel
    prime(kernel)
    (decision,) = (r for r in store.current().records() if isinstance(r, Decision))
    store.current().overrides.pin(decision)
    assert refreshed(kernel, 3.0, 2.0, 1.0) == 64 and bench.count == 0


def test_deterministic_takes_stored_decisions_and_defaults(tmp_path: Path) -> None:
    kernel = load(tmp_path).kernel
    with settings.override(deterministic=True):
        assert prime(kernel) == 64 and bench.count == 0
    bench.reset(3.0, 2.0, 1.0)
    prime(kernel)
    with settings.override(deterministic=True):
        assert prime(kernel) == 256
        with settings.override(tune=Mode.REFRESH):
            assert prime(kernel) == 256 and bench.count == 3


def test_the_default_is_the_first_that_compiles(tmp_path: Path) -> None:
    source = KERNEL.replace("    i = tl", '    tl.static_assert(BLOCK != 64, "too small")\n    i = tl')
    for mode in (Mode.FROZEN, Mode.OFF):
        with settings.override(tune=mode):
            assert prime(load(tmp_path, source).kernel) == 128


def test_the_default_is_the_first_that_fits_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not fit is found out when its module is loaded."""
    seen: list[int] = []

    def load_binary(*args: object) -> tuple[None, int, int, int, int]:
        seen.append(1)
        if len(seen) == 1:
            raise OutOfResources(2, 1, "shared memory")
        return None, 0, 0, 0, 1024

    monkeypatch.setattr("gems_runtime.target._NoDevice.load_binary", load_binary)
    with settings.override(tune=Mode.FROZEN):
        assert prime(load(tmp_path).kernel) == 128


def test_while_a_graph_is_captured_a_stored_decision_is_used_and_a_default_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(tmp_path)
    entry = LibEntry(module.kernel)
    call = torch.zeros(1024), torch.zeros(1024), 1024
    capturing = [True]
    monkeypatch.setattr(device, "is_capturing", lambda: capturing[0])
    entry[GRID](*call)
    assert bench.count == 0
    capturing[0] = False
    bench.reset(3.0, 2.0, 1.0)
    entry[GRID](*call)
    assert bench.count == 3 and entry.best_config.kwargs == {"BLOCK": 256}
    entry.clear()
    capturing[0] = True
    entry[GRID](*call)
    assert bench.count == 3 and entry.best_config.kwargs == {"BLOCK": 256}


@pytest.mark.parametrize(("policy", "benchmarks", "warnings"), [("ignore", 0, 0), ("warn", 0, 1), ("miss", 3, 0)])
def test_what_was_made_with_another_driver_is_used_said_or_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, policy: str, benchmarks: int, warnings: int
) -> None:
    monkeypatch.setattr(problem, "_told", set())
    kernel = load(tmp_path).kernel
    driver = lambda version: monkeypatch.setattr(surroundings, "here", lambda: {"torch": "2.11", "driver": version})
    driver("550.54")
    chosen = prime(kernel)
    driver("570.86")
    with settings.override(soft_env=settings.SoftEnv(policy)):
        for _ in range(2):
            bench.reset(1.0, 2.0, 3.0)
            forget()
            kernel.cache.clear()
            prime(kernel)
            assert bench.count == benchmarks
            benchmarks = 0  # what was made anew suits
    told = [r.message for r in caplog.records if "550.54" in r.message]
    assert len(told) == warnings and all("driver 550.54, here 570.86; GEMS_SOFT_ENV=miss" in text for text in told)
    assert chosen == 64


def test_a_failure_that_may_have_been_the_drivers_is_tried_again_with_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def effect(x: torch.Tensor, y: torch.Tensor, n: int, block: int) -> None:
        if block != 256:
            raise RuntimeError("out of memory") if block == 64 else OutOfResources(2, 1, "shared memory")

    edited = KERNEL.replace("256)", "256, 512)")
    monkeypatch.setattr(surroundings, "here", lambda: {"driver": "550.54"})
    with device_with(effect):
        prime(load(tmp_path).kernel)
    for driver, expected in (("550.54", 1), ("570.86", 1)):  # 512 alone; then 64, which had bad luck
        monkeypatch.setattr(surroundings, "here", lambda: {"driver": driver})
        bench.reset()
        forget()
        prime(load(tmp_path, edited).kernel)
        assert bench.count == expected
        edited = edited.replace("512)", "512, 64)").replace("(64, 128", "(128")  # another set of the same candidates


def test_strict_raises_for_a_call_that_can_have_no_key(tmp_path: Path) -> None:
    source = KERNEL.replace("BLOCK: tl.constexpr)", "BLOCK: tl.constexpr, T: tl.constexpr = None)")
    with settings.override(tune=Mode.STRICT), pytest.raises(StoreMiss, match="cannot be part of a tuning key"):
        prime(load(tmp_path, source).kernel, T=triton.language.tensor)


def test_strict_names_the_nearest_of_several(tmp_path: Path) -> None:
    kernel = load(tmp_path).kernel
    for n in (64, 1008, 65536):
        prime(kernel, n)
    with settings.override(tune=Mode.STRICT), pytest.raises(StoreMiss, match="differs in problem.key.n: 1008, here 1024"):
        prime(kernel)


def test_the_stricter_of_scope_and_surroundings_wins() -> None:
    with tune_mode("frozen"):
        assert settings.current().tune is Mode.FROZEN
        with tune_mode(Mode.AUTO):
            assert settings.current().tune is Mode.FROZEN
        with tune_mode(Mode.STRICT):
            assert settings.current().tune is Mode.STRICT
    assert settings.current().tune is Mode.AUTO


def test_a_default_taken_in_a_scope_does_not_outlive_it(tmp_path: Path) -> None:
    entry = LibEntry(load(tmp_path).kernel)
    call = torch.zeros(1024), torch.zeros(1024), 1024
    with tune_mode("frozen"):
        entry[GRID](*call)
    assert bench.count == 0
    entry[GRID](*call)
    assert bench.count == 3


def test_what_was_tuned_before_a_scope_is_not_used_in_it_if_the_mode_forbids_that(tmp_path: Path) -> None:
    entry = LibEntry(load(tmp_path).kernel)
    call = torch.zeros(1024), torch.zeros(1024), 1024
    bench.reset(3.0, 2.0, 1.0)
    entry[GRID](*call)
    with tune_mode("off"):
        entry[GRID](*call)
        assert entry.best_config.kwargs == {"BLOCK": 64}
    entry[GRID](*call)
    assert entry.best_config.kwargs == {"BLOCK": 256} and bench.count == 3


def fresh(folder: Path, step: int) -> object:
    """A kernel that no other test has compiled."""
    return load(folder, KERNEL.replace("x + 1", f"x + {step}")).kernel


def test_after_seal_nothing_is_benchmarked_until_it_is_lifted(tmp_path: Path) -> None:
    sealed = seal()
    assert settings.current().tune is Mode.FROZEN
    prime(load(tmp_path).kernel)
    assert bench.count == 0
    sealed.lift()
    assert settings.current().tune is Mode.AUTO


def test_a_seal_can_refuse_compilations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    count_compiles()
    call = torch.zeros(1024), torch.zeros(1024), 1024
    warm = fresh(tmp_path, 90001)
    warm[GRID](*call)
    with seal("error"):
        warm[GRID](*call)
        with pytest.raises(SealBroken, match="compiled after seal"):
            LibEntry(fresh(tmp_path, 90002))[GRID](*call)
    with seal("warn"):
        fresh(tmp_path, 90003)[GRID](*call)
    assert "compiled after seal" in caplog.text
    fresh(tmp_path, 90004)[GRID](*call)
    with pytest.raises(UsageError, match="expected one of allow, warn, error"):
        modes.seal("explode")
