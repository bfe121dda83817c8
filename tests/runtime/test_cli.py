"""The gems-cache command: its answers, its exit codes, and one sentence when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
from test_records import decision, measurement
from test_warm import ARGS, GRID, FakeJob, FakeProvider
from void_device import KERNEL, load

from gems_runtime import cli, device, jobs, settings, store


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "providers", lambda: (FakeProvider(),))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_gpu", lambda: False)


@pytest.fixture
def filled(own_store: Path) -> None:
    store.open(own_store).publish(decision())
    store.open(own_store).publish(measurement())


def process(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from gems_runtime.cli import main; sys.exit(main())"
    path = f"{Path(__file__).parents[2]}:{Path(__file__).parent}"
    places = {"GEMS_CACHE_DIR": str(folder / "gems"), "TRITON_CACHE_DIR": str(folder / "triton")}
    env = {**os.environ, "PYTHONPATH": path, **places, **environment}
    return subprocess.run([sys.executable, "-c", code, *words], cwd=folder, env=env, capture_output=True, text=True)


def test_a_second_identical_warm_compiles_nothing(tmp_path: Path) -> None:
    """In new processes, for a kernel that lies in the working directory."""
    (tmp_path / "mine.py").write_text(KERNEL)
    words = ["warm", "mine:kernel", "--args", ARGS, "--grid", GRID]
    if torch.cuda.is_available():
        words.append("--compile-only")
    first, second = process(tmp_path, *words), process(tmp_path, *words)
    assert first.stdout.startswith("1 calls, 0 tuned, 0 benchmarks, 3 compiles, 0 already compiled, 0 store hits, "), first.stderr
    assert second.stdout.startswith("1 calls, 0 tuned, 0 benchmarks, 0 compiles, 3 already compiled, 0 store hits, ")
    assert first.returncode == second.returncode == 0
    if not torch.cuda.is_available():
        # Triton 3.9 adds a warning of its own.
        said = [line for line in first.stderr.splitlines() if line.startswith("gems-cache:")]
        assert said == ["gems-cache: no GPU here: compiling for cuda:90, tuning nothing"]
    assert list((tmp_path / "triton").rglob("*.cubin"))


def test_interpreting_is_refused_because_it_compiles_nothing(tmp_path: Path) -> None:
    done = process(tmp_path, "warm", "mine:kernel", "--args", ARGS, "--grid", GRID, TRITON_INTERPRET="1")
    assert done.returncode == 2 and "TRITON_INTERPRET is set" in done.stderr


def test_the_answer_is_json_when_asked(provider: None, no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "warm", "add", "--shape", "1", "--shape", "2", "--dtype", "fp32", "--json")
    answer = json.loads(out)
    assert code == 0 and answer["calls"] == 2 and answer["target"] == "cuda:90" and answer["failed"] == []
    assert err.count("\n") == 1 and "no GPU" in err


def test_a_dry_run_lists_and_does_nothing(provider: None, no_gpu: None, own_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "warm", "add", "--shape", "1", "--dtype", "fp32", "--dtype", "bf16", "--dry-run")
    assert (code, out, err) == (0, "add 1 fp32\nadd 1 bf16\n", "")
    code, out, _ = run(capsys, "warm", "add", "--shape", "1", "--dry-run", "--json")
    assert json.loads(out) == [{"label": "add 1 bf16", "record": {"op": "add 1 bf16"}}]
    assert not own_store.exists()


def test_models_are_passed_on(provider: None, no_gpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text("{}")
    words = ["--model", str(config), "--batch", "2", "--seq", "64", "--decode", "8", "--dtype", "fp32", "--dry-run"]
    assert run(capsys, "warm", *words)[1] == "model 2 64 8 fp32\n"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frobnicate"],
        ["warm"],
        ["warm", "mul", "--shape", "1"],
        ["warm", "add"],
        ["warm", "add", "--shape", "x"],
        ["warm", "add", "--shape", "1", "--target", "cuda:x"],
        ["warm", "nowhere_at_all:k", "--args", "1", "--grid", "1"],
        ["warm", "json:dumps", "--args", "1", "--grid", "1"],
        ["warm", "json:nothing", "--args", "1", "--grid", "1"],
        ["warm", "void_device:KERNEL", "--args", "1"],
        ["warm", "--from", "/nonexistent"],
        ["warm", "--model", "/nonexistent"],
        ["warm", "add", "--shape", "1", "--batch", "0"],
        ["warm", "add", "--shape", "1", "--nonsense"],
        ["warm", "nowhere.py:k", "--args", "1", "--grid", "1"],
        ["show"],
        ["diff", "/nonexistent"],
        ["diff", "/etc"],
        ["merge", "/tmp/never.gemsx", "/etc"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_sentence_and_changes_nothing(
    provider: None, no_gpu: None, own_store: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2 and out == ""
    assert err.startswith("gems-cache: ") and err.count("\n") == 1
    assert not own_store.exists()


@pytest.mark.parametrize("text", ["def (:", "1 / 0", "import nothing_of_the_kind", "raise RuntimeError('no')", "nothing"])
def test_a_program_that_cannot_be_run_is_one_sentence(
    tmp_path: Path, no_gpu: None, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text(text)
    code, out, err = run(capsys, "warm", f"{tmp_path}/broken.py:k", "--args", "1", "--grid", "1")
    assert (code, out) == (2, "") and str(tmp_path / "broken.py") in err and err.count("\n") == 1


def test_a_grid_that_names_no_parameter_is_refused_before_anything_runs(tmp_path: Path, no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    name = load(tmp_path).__name__
    code, _, err = run(capsys, "warm", f"{name}:kernel", "--args", ARGS, "--grid", "cdiv(n, BLOCKS)")
    assert code == 2 and "names BLOCKS, which is no parameter" in err


def test_an_unwritable_store_is_refused(tmp_path: Path, no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    name = load(tmp_path).__name__
    with settings.override(cache_dir=tmp_path / "file" / "gems"):
        code, out, err = run(capsys, "warm", f"{name}:kernel", "--args", ARGS, "--grid", GRID)
    assert code == 3 and out == "" and "cannot be written" in err and err.count("\n") == 1


def test_an_unwritable_cache_of_compiled_kernels_is_refused(
    provider: None, no_gpu: None, own_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = "/proc/triton"
        code, out, err = run(capsys, "warm", "add", "--shape", "1")
    assert code == 3 and "Triton's cache /proc/triton cannot be written" in err
    assert not own_store.exists()


def test_a_failing_call_exits_with_one(
    provider: None, no_gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeProvider, "jobs_for", lambda *request: [FakeJob("bad", ZeroDivisionError("by zero"))])
    code, out, err = run(capsys, "warm", "add", "--shape", "1")
    assert code == 1 and out.endswith(", 1 FAILED\n")
    assert "gems-cache: bad: ZeroDivisionError: by zero\n" in err


def test_status_counts_what_is_there(own_store: Path, filled: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "status", "--json")
    answer = json.loads(out)
    assert code == 0 and (answer["decisions"], answer["measurements"], answer["kernels"]) == (1, 1, 1)
    assert answer["store"] == str(own_store) and answer["bytes"] > 0 and answer["mode"] == "auto"
    assert "decisions      1" in run(capsys, "status")[1]


def test_looking_at_no_store_makes_none(own_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "ls", "--json")[:2] == (0, "[]\n")
    assert json.loads(run(capsys, "status", "--json")[1])["exists"] is False
    assert run(capsys, "show", "abc")[0] == 1
    assert not own_store.exists()


def test_ls_shows_winners(filled: None, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "ls")[1]
    config = ["ACC=None", "BLOCK=64", "EVEN=False", "num_warps=4"]
    assert out.split() == [decision().key[:12], "2.0", "us", "50.0%", "m.k", *config, "d"]
    (row,) = json.loads(run(capsys, "ls", "--json")[1])
    assert row["key"] == decision().key and row["p50_us"] == 2.0
    assert run(capsys, "ls", "other")[1] == ""


def test_show_prints_one_entry(filled: None, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"d/{decision().key}"
    code, out, _ = run(capsys, "show", name, "--json")
    assert code == 0 and json.loads(out)["config"] == decision().config
    code, _, err = run(capsys, "show", decision().key[:6])  # a decision and a measurement have this key
    assert code == 2 and "2 entries begin with" in err


def test_help_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["warm", "--help"])
    assert end.value.code == 0 and "*bf16[1024,1024]" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [verb.name for verb in cli.VERBS])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([verb, "--help"])
    assert end.value.code == 0 and "--json" in capsys.readouterr().out


def test_looking_imports_neither_torch_nor_triton(tmp_path: Path) -> None:
    code = "import sys; from gems_runtime.cli import main; main(['ls']); assert not {'torch', 'triton', 'tqdm'} & set(sys.modules)"
    path = {"PYTHONPATH": str(Path(__file__).parents[2]), "GEMS_CACHE_DIR": str(tmp_path / "gems")}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
