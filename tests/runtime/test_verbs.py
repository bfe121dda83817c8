"""explain, verify, replay, doctor, show --plot: what they find, what they say, and how they end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_records import decision
from void_device import KERNEL, bench, device_with, forget, load

from gems_runtime import cli, device, doctor, entry, jobs, settings, stats, store, warm
from gems_runtime.doctor import Check
from gems_runtime.records import Decision, Measurement
from gems_runtime.settings import Mode

ARGS, GRID = "*fp32[1024], *fp32[1024], 1024", "cdiv(n, BLOCK)"
_fresh = itertools.count(8_000_000)


@pytest.fixture
def gpu(triton_cache: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    bench.reset()
    stats.reset()
    with device_with():
        yield
    jobs._kernel.cache_clear()


@pytest.fixture
def kernel(tmp_path: Path, gpu: None) -> str:
    """The name of a kernel that no other test has compiled."""
    return load(tmp_path, KERNEL.replace("x + 1", f"x + {next(_fresh)}")).__name__ + ":kernel"


def words(kernel: str, size: int = 1024) -> list[str]:
    return [kernel, "--args", ARGS.replace("], 1024", f"], {size}"), "--grid", GRID]


def run(capsys: pytest.CaptureFixture[str], verb: str, *more: str) -> tuple[int, object, str]:
    entry.clear_all()
    code = cli.main([verb, *more, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def warmed(capsys: pytest.CaptureFixture[str], kernel: str, *times: float, size: int = 1024) -> Decision:
    bench.reset(*times)
    assert run(capsys, "warm", *words(kernel, size))[0] == 0
    return max((r for r in store.current().records() if isinstance(r, Decision)), key=lambda r: r.time)


def test_explain_names_the_layer_or_the_nearest_entry(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, (answer,), _ = run(capsys, "explain", *words(kernel))
    assert code == 1 and answer["source"] == "default" and answer["nearest"] == "" and answer["config"]["kwargs"] == {"BLOCK": 64}
    kept = warmed(capsys, kernel, 3.0, 1.0, 2.0)
    code, (answer,), _ = run(capsys, "explain", *words(kernel))
    assert code == 0 and (answer["source"], answer["key"]) == ("user", kept.key) and answer["config"]["kwargs"] == {"BLOCK": 128}
    code, (answer,), _ = run(capsys, "explain", *words(kernel, 2048))
    assert code == 1 and answer["nearest"] == kept.key and answer["differs"] == ["problem.key.n: 1024, here 2048"]
    assert bench.count == 3
    entry.clear_all()
    cli.main(["explain", *words(kernel, 2048)])
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"  nearest entry {kept.key[:12]}, which differs in",
        "    problem.key.n: 1024, here 2048",
    ]


def test_explain_without_a_gpu_names_the_device_as_what_differs(
    kernel: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "identity", lambda: device.DeviceIdentity("nvidia", "NVIDIA H200", "cuda:90", 132, 1, 1))
    warmed(capsys, kernel)
    monkeypatch.undo()
    monkeypatch.setattr(device, "has_gpu", lambda: False)
    code, (answer,), err = run(capsys, "explain", *words(kernel))
    assert code == 1 and "whose name is not known" in err
    assert 'device.name: "NVIDIA H200", here "no-device"' in answer["differs"]


def test_verify_passes_what_was_just_warmed(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    warmed(capsys, kernel)
    bench.reset(1.0, 1.0)
    code, answer, _ = run(capsys, "verify", "--fresh", "--perf", "5%")
    assert code == 0 and answer == {"calls": 1, "bad_entries": [], "findings": []}


def test_verify_fresh_finds_what_would_be_tuned_or_compiled(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = run(capsys, "verify", "--fresh", *words(kernel))
    assert code == 1 and [one["kind"] for one in answer["findings"]] == ["untuned", "compiles"]
    assert run(capsys, "verify", *words(kernel))[0] == 0
    code, _, err = run(capsys, "verify", "--fresh")
    assert code == 1 and "nothing was warmed" in err


def test_verify_finds_a_wrong_answer(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    warmed(capsys, kernel, 3.0, 1.0, 2.0)
    with device_with(lambda x, y, n, block: y.copy_(x + (2.0 if block == 128 else 1.0))):
        code, answer, _ = run(capsys, "verify", *words(kernel))
    assert code == 1 and [one["kind"] for one in answer["findings"]] == ["numerics"]


def test_verify_finds_a_winner_that_is_slow_now(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    warmed(capsys, kernel, 3.0, 1.0, 2.0)
    bench.reset(1.04, 1.0, 3.0)
    assert run(capsys, "verify", *words(kernel), "--perf", "5%")[0] == 0
    bench.reset(1.06, 1.0, 3.0)
    code, answer, _ = run(capsys, "verify", *words(kernel), "--perf", "5%")
    assert code == 1 and "1060.0 us" in answer["findings"][0]["text"]


def test_verify_counts_entries_that_cannot_be_read(
    kernel: str, capsys: pytest.CaptureFixture[str], spoil: Callable[[str], None]
) -> None:
    kept = warmed(capsys, kernel)
    spoil(f"d/{kept.key}")
    forget()
    code, answer, _ = run(capsys, "verify")
    assert code == 1 and len(answer["bad_entries"]) == 1


@pytest.fixture
def spoil(own_store: Path) -> Callable[[str], None]:
    """Change a letter of an entry on disk."""

    def change(name: str) -> None:
        import sqlite3

        (path,) = own_store.rglob("cache.db")
        with sqlite3.connect(path) as database:
            database.execute("UPDATE Cache SET value = replace(value, 'tuned', 'tuneb') WHERE key = ?", (name,))

    return change


def test_replay_reproduces_what_was_decided(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    for size, times in ((1024, (3.0, 1.0, 2.0)), (2048, (1.005, 2.0, 1.0)), (4096, (2.0, 2.0, 1.0))):
        warmed(capsys, kernel, *times, size=size)
    code, answer, _ = run(capsys, "replay")
    assert code == 0 and (answer["decisions"], answer["flips"], answer["without_measurements"]) == (3, 0, 0)
    assert answer["median_regret"] == 0 and answer["largest_regret"] == pytest.approx(0.005)


def test_replay_finds_a_winner_that_the_measurements_do_not_name(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    kept = warmed(capsys, kernel, 3.0, 1.0, 2.0)
    third = store.current().measurement(kept.soft["measurements"][2])
    store.current().publish(replace(third, p50_us=500.0))
    code, answer, err = run(capsys, "replay")
    assert code == 1 and answer["flips"] == 1 and answer["largest_regret"] == 1.0
    assert answer["flipped"][0]["best"]["kwargs"] == {"BLOCK": 256}
    assert "1 decisions, 1 flips, regret 100.00% median" in err
    assert run(capsys, "replay", "other")[1]["decisions"] == 0


def test_a_decision_without_its_measurements_cannot_be_replayed(own_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.current().publish(decision())
    code, answer, _ = run(capsys, "replay")
    assert code == 0 and (answer["flips"], answer["without_measurements"]) == (0, 1)


def test_a_refreshed_winner_that_ties_does_not_flip(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    warmed(capsys, kernel, 3.0, 2.0, 1.0)
    with settings.override(tune=Mode.REFRESH):
        assert warmed(capsys, kernel, 1.0, 2.0, 1.005).config["kwargs"] == {"BLOCK": 256}
    assert run(capsys, "replay")[0] == 0


def states(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Check]]:
    code, answer, _ = run(capsys, "doctor")
    return code, {one["name"]: Check(**one) for one in answer}


def test_doctor_finds_nothing_here(own_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_device", lambda: iter(()))
    monkeypatch.setattr(doctor, "_others", lambda: iter(()))
    code, found = states(capsys)
    assert code == 0 and {check.state for check in found.values()} <= {"ok", "note"}
    assert {"triton", "torch", "native tier", "store", "compiled kernels", "file system", "diskcache", "redis"} <= found.keys()


def test_doctor_finds_a_store_that_others_may_write_to(own_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_store.mkdir(mode=0o700)
    own_store.chmod(0o777)
    code, found = states(capsys)
    assert code == 3 and found["permissions"].state == "bad" and "chmod 700" in found["permissions"].text


def test_doctor_finds_an_unwritable_store_and_an_unsupported_triton(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("triton.__version__", "3.2.0")
    with settings.override(cache_dir=Path("/proc/gems")):
        code, found = states(capsys)
    assert code == 3 and found["store"].state == "bad" and found["triton"].text.startswith("3.2.0; 3.6 to 3.9")


def test_doctor_finds_a_dead_redis(own_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("redis")
    with settings.override(redis="redis://user:secret@127.0.0.1:1/0"):
        code, found = states(capsys)
    assert code == 3 and found["redis"] == Check("redis", "bad", "127.0.0.1:1/0 does not answer")


def test_doctor_finds_other_users_of_the_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 4242, 512 MiB\n")
    tool.chmod(0o700)
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (check,) = doctor._others()
    assert check == Check("other GPU users", "bad", "1 other processes: pid, memory 4242, 512 MiB")


def test_a_plot_shows_every_candidate(kernel: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs the plot extra")
    from gems_runtime.cli import plot

    kept = warmed(capsys, kernel, 3.0, 1.0, 2.0)
    assert [(label.split()[0], p50) for label, p50, *_ in plot._rows(kept, store.current())] == [
        ("BLOCK=128", 1000.0),
        ("BLOCK=256", 2000.0),
        ("BLOCK=64", 3000.0),
    ]
    code, answer, _ = run(capsys, "show", f"d/{kept.key}", "--plot", str(tmp_path / "key.png"))
    assert code == 0 and answer["key"] == kept.key
    assert (tmp_path / "key.png").read_bytes().startswith(b"\x89PNG")
    (one, *_) = (r for r in store.current().records() if isinstance(r, Measurement))
    assert run(capsys, "show", f"m/{one.key}", "--plot", str(tmp_path / "m.png"))[0] == 2


def test_a_plot_without_matplotlib_says_what_to_install(
    own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    store.current().publish(decision())
    code, _, err = run(capsys, "show", f"d/{decision().key}", "--plot", str(tmp_path / "x.png"))
    assert code == 2 and "gems-runtime[plot]" in err


def test_warming_notes_what_was_warmed(kernel: str) -> None:
    job = jobs.kernel_job(kernel, ARGS, GRID)
    assert warm.run([job], None).tuned == 1
    again = warm.run([job], None, resume=True)
    assert (again.calls, again.skipped) == (0, 1)
