"""From a call to its configuration: what is benchmarked, what is kept, and what may never win."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import triton
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction
from void_device import KERNEL, bench, device_with, forget, load

from gems_runtime import device, settings, stats, store, tuner
from gems_runtime.errors import DeviceLost, NoValidConfig, StoreMiss, UsageError
from gems_runtime.ranking import ranked
from gems_runtime.records import Decision, Measurement
from gems_runtime.settings import Mode
from gems_runtime.strategy import by_key
from gems_runtime.target import compiling_for

pytestmark = pytest.mark.usefixtures("void")
GRID = (8,)


@pytest.fixture
def void(triton_cache: None) -> Iterator[None]:
    bench.reset()
    stats.reset()
    with device_with():
        yield


def tensors() -> tuple[torch.Tensor, torch.Tensor, int]:
    return torch.zeros(1024), torch.zeros(1024), 1024


def prime(kernel: object, *args: object, **kwargs: object) -> triton.Config:
    return tuner.prime(kernel, args or tensors(), kwargs, GRID)


def benchmarks_of(folder: Path, source: str) -> int:
    """How many configurations a new process with this source would time."""
    bench.reset()
    forget()
    prime(load(folder, source).kernel)
    return bench.count


def test_the_second_call_and_the_second_process_benchmark_nothing(tmp_path: Path) -> None:
    bench.reset(3.0, 1.0, 2.0)
    module = load(tmp_path)
    assert prime(module.kernel).kwargs == {"BLOCK": 128}
    assert prime(module.kernel).kwargs == {"BLOCK": 128}
    assert bench.count == 3 and stats.snapshot()["benchmark"] == 3 and stats.snapshot()["tune"] == 1
    code = (
        "import sys; from pathlib import Path; import void_device as v\n"
        "from test_tuner import prime\n"
        "from gems_runtime import settings, stats\n"
        "with settings.override(cache_dir=Path(sys.argv[2])), v.device_with():\n"
        "    config = prime(v.load(Path(sys.argv[1])).kernel)\n"
        "print(config.kwargs['BLOCK'], v.bench.count, stats.snapshot()['store_hit'])"
    )
    path = ":".join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", code, str(tmp_path), str(settings.current().cache_dir)]
    done = subprocess.run(command, env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.stdout.split() == ["128", "0", "1"], done.stderr


def test_stock_triton_benchmarks_nothing_after_prime(tmp_path: Path) -> None:
    module, args = load(tmp_path), tensors()
    prime(module.kernel, *args)
    module.kernel[GRID](*args)
    assert bench.count == 3
    assert module.kernel.best_config.kwargs == {"BLOCK": 64}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("def kernel", "def kernel", 0),
        ("    i = tl", "    # a comment\n\n    i = tl", 0),
        ("import triton\n", "import triton\n\n\n\n", 0),
        ("    return x + 1", '    """Now with a docstring."""\n    return (x  +  1)', 0),
        ("x + 1", "x + 2", 3),
        ("constexpr(1)", "constexpr(2)", 3),
        ("i = tl.program_id(0) * BLOCK", "i = BLOCK * tl.program_id(0)", 3),
        ("BLOCK: tl.constexpr)", "BLOCK: tl.constexpr, extra=1)", 3),
        ("(64, 128, 256)", "(64, 128, 256, 512)", 1),
        ("(64, 128, 256)", "(256, 64, 128)", 0),
        ("(64, 128, 256)", "(64, 128)", 0),
        ("num_warps=4", "num_warps=2", 3),
        ('{"BLOCK": b}', '{"BLOCK": b}, num_stages=2', 3),
        ("do_bench=bench", 'do_bench=bench, reset_to_zero=["y_ptr"]', 3),
    ],
)
def test_an_edit_times_again_what_it_may_have_changed(tmp_path: Path, before: str, after: str, expected: int) -> None:
    assert before in KERNEL
    assert benchmarks_of(tmp_path, KERNEL) == 3
    assert benchmarks_of(tmp_path, KERNEL.replace(before, after)) == expected


def test_a_problem_is_known_by_key_dtype_and_alignment_but_not_by_shape(tmp_path: Path) -> None:
    kernel = load(tmp_path).kernel
    x, y, n = tensors()
    calls = [((x, y, n), 3), ((x[:64], y, n), 0), ((x, y, 2048), 3), ((x.half(), y, n), 3), ((x[1:], y, n), 3)]
    calls += [((torch.zeros(32, 32).T, y, n), 3), ((x, y, n), 0)]
    for args, expected in calls:
        bench.reset()
        prime(kernel, *args)
        assert bench.count == expected, args


def test_the_salt_and_the_device_are_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert benchmarks_of(tmp_path, KERNEL) == 3
    with settings.override(salt="other"):
        assert benchmarks_of(tmp_path, KERNEL) == 3
    other = device.DeviceIdentity("nvidia", "NVIDIA H100", "cuda:90", 132, 1, 1)
    monkeypatch.setattr(device, "identity", lambda: other)
    assert benchmarks_of(tmp_path, KERNEL) == 3


def test_a_configuration_keeps_its_types_and_its_live_hook(tmp_path: Path) -> None:
    source = KERNEL.replace(
        '[triton.Config({"BLOCK": b}, num_warps=4) for b in (64, 128, 256)]',
        '[triton.Config({"BLOCK": 64, "E": e}, pre_hook=hook) for e in (1, True, None)]',
    ).replace("BLOCK: tl.constexpr)", "BLOCK: tl.constexpr, E: tl.constexpr)")
    source = source.replace("@triton.autotune", "def hook(args):\n    ran.append(1)\n\nran = []\n\n@triton.autotune")
    bench.reset(2.0, 1.0, 3.0)
    assert prime(load(tmp_path, source).kernel).kwargs["E"] is True
    forget()
    module = load(tmp_path, source)
    config = prime(module.kernel)
    assert config.kwargs["E"] is True and config.pre_hook is module.hook and bench.count == 3


def wrong_at(block: int):  # noqa: ANN201 - a launch effect
    def effect(x: torch.Tensor, y: torch.Tensor, n: int, at: int) -> None:
        y.copy_(x + (2.0 if at == block else 1.0))

    return effect


def test_a_fast_wrong_configuration_never_wins(tmp_path: Path) -> None:
    with device_with(wrong_at(256)):
        bench.reset(3.0, 2.0, 1.0)
        assert prime(load(tmp_path).kernel).kwargs == {"BLOCK": 128}
        statuses = {m.config["kwargs"]["BLOCK"]: m.status for m in store.current().records() if isinstance(m, Measurement)}
        assert statuses == {64: "ok", 128: "ok", 256: "numerics"}
        with settings.override(check_numerics=False):
            bench.reset(3.0, 2.0, 1.0)
            assert prime(load(tmp_path).kernel).kwargs == {"BLOCK": 256}


@pytest.mark.parametrize(("answer", "expected"), [(1.0, True), (1.0 + 1e-6, False), (float("nan"), True)])
def test_a_decision_says_whether_the_winner_is_bitwise_the_default(tmp_path: Path, answer: float, expected: bool) -> None:
    default = answer if answer != answer else 1.0
    with device_with(lambda x, y, n, block: y.fill_(default if block == 64 else answer)):
        bench.reset(3.0, 2.0, 1.0)
        assert prime(load(tmp_path).kernel).kwargs == {"BLOCK": 256}
    (decision,) = (r for r in store.current().records() if isinstance(r, Decision))
    assert decision.soft["bitwise"] is expected


def test_a_measurement_says_what_is_known_of_the_compiled_code(tmp_path: Path) -> None:
    source = KERNEL.replace("x + 1", "x + 4444")  # which no other test has compiled
    prime(load(tmp_path, source).kernel)
    for found in store.current().records():
        if isinstance(found, Measurement):
            details = dict(found.details)
            assert details.pop("compile_ms") > 0 and details == {"n": 1, "registers": 0, "spills": 0, "shared_bytes": 0}
            assert found.soft["torch"] == torch.__version__


def test_nan_agrees_with_nan(tmp_path: Path) -> None:
    with device_with(lambda x, y, n, block: y.fill_(float("nan"))):
        bench.reset(3.0, 2.0, 1.0)
        assert prime(load(tmp_path).kernel).kwargs == {"BLOCK": 256}


def test_tuning_leaves_the_arguments_as_they_were(tmp_path: Path) -> None:
    with device_with(lambda x, y, n, block: y.add_(1)):
        x, y, n = tensors()
        prime(load(tmp_path).kernel, x, y, n)
        assert torch.equal(y, torch.zeros(1024))


def test_reset_and_restore_are_honoured_while_benchmarking(tmp_path: Path) -> None:
    seen = []
    with device_with(lambda x, y, n, block: (seen.append((x[0].item(), y[0].item())), x.add_(1), y.add_(1))):
        source = KERNEL.replace("do_bench=bench", 'do_bench=bench, reset_to_zero=["y_ptr"], restore_value=["x_ptr"]')
        x, y = torch.full((1024,), 5.0), torch.full((1024,), 7.0)
        prime(load(tmp_path, source).kernel, x, y, 1024)
    assert set(seen) == {(5.0, 0.0)} and x[0] == 5.0


def test_without_memory_for_the_copies_nothing_is_timed(
    tmp_path: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = KERNEL.replace("do_bench=bench", 'do_bench=bench, restore_value=["x_ptr"]')
    monkeypatch.setattr(device, "free_bytes", lambda: 5000)  # the copy of x takes 4096, and a fifth is left alone
    assert prime(load(tmp_path, source).kernel).kwargs == {"BLOCK": 64}
    assert bench.count == 0 and "too little memory" in caplog.text and not list(store.current().records())
    # enough to time, and not to check
    monkeypatch.setattr(device, "free_bytes", lambda: 6000)
    prime(load(tmp_path, source).kernel)
    assert bench.count == 3 and "wins unchecked" in caplog.text


def test_a_configuration_that_fails_loses_and_is_not_tried_again(tmp_path: Path) -> None:
    def effect(x: torch.Tensor, y: torch.Tensor, n: int, block: int) -> None:
        if block == 64:
            raise OutOfResources(2, 1, "shared memory")

    with device_with(effect):
        assert prime(load(tmp_path).kernel).kwargs == {"BLOCK": 128}
        assert bench.count == 2
        assert benchmarks_of(tmp_path, KERNEL.replace("256)", "256, 512)")) == 1
    decision = next(r for r in store.current().records() if isinstance(r, Decision) and len(r.tried) == 2)
    assert decision.tried["oor"] == 1


def test_a_configuration_that_does_not_compile_loses(tmp_path: Path) -> None:
    source = KERNEL.replace("    i = tl", '    tl.static_assert(BLOCK != 64, "too small")\n    i = tl')
    assert prime(load(tmp_path, source).kernel).kwargs == {"BLOCK": 128}
    assert {m.status for m in store.current().records() if isinstance(m, Measurement)} == {"ok", "compile"}


def test_a_failure_while_others_compile_counts_only_if_it_happens_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CPython's parser fails now and then when several threads parse."""
    failed, parse = [], JITFunction.parse

    def fail_once_in_a_worker(jit: JITFunction) -> object:
        if threading.current_thread() is not threading.main_thread() and not failed:
            failed.append(1)
            raise SystemError("AST constructor recursion depth mismatch")
        return parse(jit)

    monkeypatch.setattr(JITFunction, "parse", fail_once_in_a_worker)
    prime(load(tmp_path, KERNEL.replace("x + 1", "x + 7777")).kernel)  # which no other test has compiled
    assert failed and bench.count == 3


def test_if_every_configuration_fails_each_is_named_and_no_decision_is_kept(tmp_path: Path) -> None:
    def effect(*args: object) -> None:
        raise OutOfResources(2, 1, "shared memory")

    with device_with(effect), pytest.raises(NoValidConfig, match=r"(?s)BLOCK: 64.*oor.*BLOCK: 128.*oor.*BLOCK: 256.*oor"):
        prime(load(tmp_path).kernel)
    assert not [r for r in store.current().records() if isinstance(r, Decision)]


def test_a_configuration_that_breaks_the_device_is_the_only_one_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal address every launch of the process fails: that says nothing about the other configurations."""

    def effect(x: torch.Tensor, y: torch.Tensor, n: int, block: int) -> None:
        if block == 128 or not device.works():
            monkeypatch.setattr(device, "works", lambda: False)
            raise RuntimeError("an illegal memory access was encountered")

    with device_with(effect), pytest.raises(DeviceLost, match="BLOCK: 128.*illegal memory"):
        prime(load(tmp_path).kernel)
    held = list(store.current().records())
    assert {r.config["kwargs"]["BLOCK"]: r.status for r in held} == {64: "ok", 128: "runtime"}
    monkeypatch.undo()
    # the next process goes on from there
    assert benchmarks_of(tmp_path, KERNEL) == 1


def test_a_default_that_broke_the_device_is_not_launched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[int] = []

    def effect(x: torch.Tensor, y: torch.Tensor, n: int, block: int) -> None:
        launched.append(block)
        if block == 64:
            monkeypatch.setattr(device, "works", lambda: False)
            raise RuntimeError("an illegal memory access was encountered")

    with device_with(effect):
        with pytest.raises(DeviceLost, match="BLOCK: 64"):
            prime(load(tmp_path).kernel)
        monkeypatch.undo()
        assert launched == [64]
        assert benchmarks_of(tmp_path, KERNEL) == 2 and 64 not in launched[1:]


def test_a_wrong_call_raises_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        prime(load(tmp_path).kernel, torch.zeros(4))
    with pytest.raises(ValueError, match="BLOCK: given in the call"):
        prime(load(tmp_path).kernel, *tensors(), BLOCK=64)


@pytest.mark.parametrize("mode", [Mode.FROZEN, Mode.OFF, Mode.RECORD])
def test_modes_that_do_not_tune_take_the_default_and_keep_nothing(tmp_path: Path, own_store: Path, mode: Mode) -> None:
    with settings.override(tune=mode):
        assert prime(load(tmp_path).kernel).kwargs == {"BLOCK": 64}
    assert bench.count == 0
    assert not (own_store / "index").exists()


def test_modes_that_do_not_tune_read_the_store_except_off(tmp_path: Path) -> None:
    bench.reset(3.0, 1.0, 2.0)
    prime(load(tmp_path).kernel)
    found = {}
    for mode in (Mode.FROZEN, Mode.STRICT, Mode.RECORD, Mode.OFF):
        with settings.override(tune=mode):
            found[mode] = prime(load(tmp_path).kernel).kwargs["BLOCK"]
    assert found == {Mode.FROZEN: 128, Mode.STRICT: 128, Mode.RECORD: 128, Mode.OFF: 64}


def test_strict_names_the_field_that_differs(tmp_path: Path) -> None:
    kernel = load(tmp_path).kernel
    with settings.override(tune=Mode.STRICT), pytest.raises(StoreMiss, match="it has none for this kernel"):
        prime(kernel)
    prime(kernel)
    with settings.override(tune=Mode.STRICT), pytest.raises(StoreMiss, match="problem.key.n: 1024, here 2048"):
        prime(kernel, *tensors()[:2], 2048)


def test_record_writes_each_untuned_call_once(tmp_path: Path, own_store: Path) -> None:
    module = load(tmp_path)
    with settings.override(tune=Mode.RECORD):
        for _ in range(2):
            prime(module.kernel)
    lines = [json.loads(line) for line in (own_store / "untuned.jsonl").read_text().splitlines()]
    expected = {"kernel": f"{module.__name__}:kernel", "args": "*fp32[1024], *fp32[1024], 1024", "grid": "8"}
    assert lines == [expected]


def test_while_a_graph_is_captured_the_default_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "is_capturing", lambda: True)
    assert prime(load(tmp_path).kernel).kwargs == {"BLOCK": 64}
    assert bench.count == 0


def test_where_nothing_can_be_timed_the_default_is_taken(tmp_path: Path, own_store: Path) -> None:
    with compiling_for("cuda:80"):
        x = torch.empty(1024, device="meta")
        assert prime(load(tmp_path).kernel, x, x, 1024).kwargs == {"BLOCK": 64}
    assert bench.count == 0 and not own_store.exists()


def test_a_call_that_has_no_key_is_tuned_for_this_process_alone(tmp_path: Path) -> None:
    bench.reset(2.0, 1.0, 3.0)
    source = KERNEL.replace("BLOCK: tl.constexpr)", "BLOCK: tl.constexpr, T: tl.constexpr = None)")
    config = prime(load(tmp_path, source).kernel, *tensors(), T=triton.language.tensor)
    assert config.kwargs == {"BLOCK": 128} and bench.count == 3
    assert not list(store.current().records())


def test_pruning_sees_what_stock_passes_and_decides_the_candidates(tmp_path: Path) -> None:
    source = KERNEL.replace("do_bench=bench", "do_bench=bench, prune_configs_by={'early_config_prune': prune}")
    prune = "def prune(configs, named, **kw):\n    seen.append((sorted(named), sorted(kw)))\n    return configs[1:]\n\nseen = []\n\n"
    module = load(tmp_path, source.replace("@triton.autotune", prune + "@triton.autotune"))
    assert prime(module.kernel).kwargs == {"BLOCK": 128}
    assert bench.count == 2 and module.seen == [(["n", "x_ptr", "y_ptr"], ["grid", "warmup"])]


def test_close_times_go_to_what_takes_less_shared_memory_before_what_is_declared_first() -> None:
    times = {0: 10.05, 1: 10.0, 2: 10.02, 3: 11.0}
    assert ranked(times, None, {0: 4096, 1: 4096, 2: 0}) == [2, 0, 1, 3]
    assert ranked(times, 1, {0: 0, 1: 4096, 2: 0})[0] == 1 and ranked(times) == [0, 1, 2, 3]


def test_close_times_go_to_the_candidate_declared_first(tmp_path: Path) -> None:
    bench.reset(1.005, 1.2, 1.0)
    assert prime(load(tmp_path).kernel).kwargs == {"BLOCK": 64}
