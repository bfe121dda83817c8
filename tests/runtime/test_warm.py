"""Warming: jobs from operators, kernels and files, the texts that describe them, and compiling with no device."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from void_device import KERNEL, bench, device_with, load

from gems_runtime import argspec, gridspec, jobs, settings, stats, target, warm
from gems_runtime.errors import GemsError, StoreError, UsageError
from gems_runtime.settings import Mode

_fresh = itertools.count(1000)
ARGS, GRID = "*fp32[1024], *fp32[1024], 1024", "cdiv(n, BLOCK)"


class FakeJob:
    def __init__(self, label: str, error: Exception | None = None) -> None:
        self.label, self.record, self.error = label, {"op": label}, error

    def run(self) -> None:
        if self.error is not None:
            raise self.error


class FakeProvider:
    """Operators `add` and `sub`, whose shapes are one number."""

    def operator_names(self) -> list[str]:
        return ["add", "sub"]

    def jobs_for(self, name: str, shape: str, dtype: str) -> list[FakeJob]:
        if not shape.isdecimal():
            raise UsageError(f"shape {shape!r} is not a number")
        return [FakeJob(f"{name} {shape} {dtype}")]

    def job_from_record(self, record: dict) -> FakeJob:
        if record.get("op") not in self.operator_names():
            raise UsageError(f"no operator {record.get('op')!r}")
        return FakeJob(record["op"])

    def jobs_for_model(self, config: Path, batch: int, seq: int, decode: int, dtype: str) -> list[FakeJob]:
        return [FakeJob(f"model {batch} {seq} {decode} {dtype}")]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "providers", lambda: (FakeProvider(),))


@pytest.fixture
def kernel(tmp_path: Path, triton_cache: None) -> Iterator[str]:
    """The name of a third-party kernel that no other test has compiled."""
    name = load(tmp_path, KERNEL.replace("+ STEP", f"+ STEP + {next(_fresh)}")).__name__
    stats.reset()
    bench.reset()
    yield f"{name}:kernel"
    jobs._kernel.cache_clear()


def test_an_operators_jobs_are_shapes_times_dtypes(provider: None) -> None:
    labels = [job.label for job in jobs.operator_jobs("add", ["1", "2"], ["bf16", "fp32"])]
    assert labels == ["add 1 bf16", "add 1 fp32", "add 2 bf16", "add 2 fp32"]


def test_an_unknown_operator_is_told_from_its_neighbour(provider: None) -> None:
    with pytest.raises(UsageError, match="unknown operator 'ad'; did you mean add"):
        jobs.operator_jobs("ad", ["1"], ["bf16"])
    with pytest.raises(UsageError, match="shape 'x' is not a number"):
        jobs.operator_jobs("add", ["1", "x"], ["bf16"])


def test_a_file_holds_operators_and_kernels(provider: None, tmp_path: Path, kernel: str) -> None:
    path = tmp_path / "shapes.jsonl"
    path.write_text(json.dumps({"op": "add"}) + "\n\n" + json.dumps({"kernel": kernel, "args": ARGS, "grid": GRID}) + "\n")
    first, second = jobs.file_jobs(path)
    assert first.label == "add"
    assert second.record == {"kernel": kernel, "args": ARGS, "grid": GRID}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "shapes.jsonl:2 is not JSON"),
        ("[1]", "shapes.jsonl:2 is not a JSON object"),
        ('{"op": "mul"}', "shapes.jsonl:2: no operator 'mul'"),
        ('{"kernel": "nowhere_at_all:k", "args": "1", "grid": "1"}', "shapes.jsonl:2: cannot import"),
        ('{"kernel": "m:k", "args": "1", "grid": null}', "shapes.jsonl:2: kernel m:k needs --grid"),
        ('{"kernel": "m:k", "args": null, "grid": "1"}', "shapes.jsonl:2: kernel m:k needs --args"),
        ('{"kernel": 5, "args": "1", "grid": "1"}', "shapes.jsonl:2: "),
        ('{"kernel": "m:k", "args": 5, "grid": "1"}', "shapes.jsonl:2: "),
    ],
)
def test_a_line_that_is_no_job_is_named(provider: None, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "shapes.jsonl"
    path.write_text('{"op": "add"}\n' + line)
    with pytest.raises(UsageError, match=message):
        jobs.file_jobs(path)


def test_every_candidate_is_compiled_once_for_each_target(kernel: str) -> None:
    """Which of the three wins is found out on the target, and compiles nothing then."""
    job = jobs.kernel_job(kernel, ARGS, GRID)
    for compile_target in ("cuda:90", "cuda:80", "hip:gfx942"):
        for compiles in (3, 0):
            report = warm.run([job], compile_target)
            assert not report.failed
            assert (report.calls, report.compiles, report.benchmarks, report.target) == (1, compiles, 0, compile_target)


def test_a_kernel_is_tuned_where_there_is_a_device(kernel: str) -> None:
    with device_with():
        job = jobs.kernel_job(kernel, ARGS, GRID)
        first, second = warm.run([job], None), warm.run([job], None)
    assert (first.tuned, first.benchmarks, first.store_hits) == (1, 3, 0)
    assert (second.tuned, second.benchmarks, second.compiles) == (0, 0, 0)


def test_what_record_mode_wrote_can_be_warmed(kernel: str, own_store: Path) -> None:
    with device_with():
        with settings.override(tune=Mode.RECORD):
            jobs._kernel(kernel)[(8,)](torch.zeros(1024), torch.zeros(1024), n=1024)
        jobs._kernel(kernel).clear()
        (again,) = jobs.file_jobs(own_store / "untuned.jsonl")
        assert again.record == {"kernel": kernel, "args": "*fp32[1024], *fp32[1024], n=1024", "grid": "8"}
        report = warm.run([again], None)
    assert report.tuned == 1


def test_a_call_that_fails_is_reported_and_the_rest_go_on() -> None:
    calls = [FakeJob("a", RuntimeError("boom")), FakeJob("b"), FakeJob("c", GemsError("bang")), FakeJob("d")]
    report = warm.run(calls, "cuda:90")
    assert report.calls == 4
    assert report.failed == [{"label": "a", "error": "RuntimeError: boom"}, {"label": "c", "error": "GemsError: bang"}]
    assert str(report).endswith(", 2 FAILED")


def test_after_a_call_that_breaks_the_device_none_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where nothing can be run any more; a crew starts another worker."""
    calls = [FakeJob("a"), FakeJob("b", RuntimeError("an illegal memory access was encountered")), FakeJob("c")]
    monkeypatch.setattr("gems_runtime.device.works", lambda: False)
    report = warm.run(calls, "cuda:90")
    assert (report.calls, report.left, [f["label"] for f in report.failed]) == (2, 1, ["b"])


def test_the_driver_is_put_back_also_after_an_error() -> None:
    before = triton.runtime.driver._active
    with pytest.raises(ValueError), target.compiling_for("cuda:90"):
        assert triton.runtime.driver.active.get_current_target().arch == 90
        raise ValueError
    assert triton.runtime.driver._active is before


def test_too_much_shared_memory_for_the_target_is_an_error_there(tmp_path: Path, triton_cache: None) -> None:
    source = KERNEL.replace("for b in (64, 128, 256)", "for b in (64,)")
    body = "    a = tl.load(x_ptr + tl.arange(0, 128)[:, None] * 256 + tl.arange(0, 256)[None, :])\n"
    body += "    tl.store(y_ptr + tl.arange(0, 128)[:, None] * 128 + tl.arange(0, 128)[None, :], tl.dot(a, tl.trans(a)))\n"
    name = load(tmp_path, source[: source.index("    i = tl")] + body).__name__
    job = jobs.kernel_job(f"{name}:kernel", ARGS, "1")
    assert "out of resource" in warm.run([job], "cuda:86").failed[0]["error"]


@pytest.mark.parametrize("text", ["cuda", "cuda:", "cuda:9", "cuda:9x", "rocm:90", "hip:90", "hip:gfx", "", "CUDA:90"])
def test_malformed_targets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="targets look like"):
        target.parse_target(text)


def test_warp_sizes_follow_the_architecture() -> None:
    assert [target.parse_target(t).warp_size for t in ("cuda:90", "hip:gfx942", "hip:gfx1100")] == [32, 64, 32]


def test_an_unwritable_store_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "gems", Path("/proc/gems")):
        with settings.override(cache_dir=folder), pytest.raises(StoreError, match="cannot be written"):
            warm.require_places()
    warm.require_places()
    assert not settings.current().cache_dir.exists()


@pytest.mark.parametrize(
    "text",
    [
        "*bf16[1024,1024], *fp32[1024], 1024, BLOCK=256",
        "*fp32[64,64]:[1,64], *i1[8]+3, *fp8e5[2]",
        "-1, 1e-05, None, True, 'a, b', tl.float32, X=(1, 2), num_warps=8",
        "",
        "*fp32[]",
    ],
)
def test_arguments_read_back_as_they_are_written(text: str) -> None:
    assert str(argspec.parse(text)) == text
    assert argspec.parse(str(argspec.parse(text))) == argspec.parse(text)


@pytest.mark.parametrize(
    "text",
    ["*f32[8]", "*fp32", "*fp32[8", "*fp32[8]:[1,2]", "*fp32[a]", "1 2", "x", "A=1, 2", "f()", "[1]", "{}", "1,,2", "'a", "__import__('os')", "A=", "*fp32[-1]"],
)
def test_malformed_arguments_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        argspec.parse(text)


def test_tensors_are_made_as_described() -> None:
    args, kwargs = argspec.parse("*fp32[4,8]:[1,4], *i32[3], *bf16[8]+1, 5, T=tl.float16").make(torch.device("cpu"))
    a, b, c, five = args
    assert a.stride() == (1, 4) and a.shape == (4, 8) and a.std() > 0.1
    assert b.dtype == torch.int32 and b.count_nonzero() == 0
    assert c.data_ptr() % 16 == 2 and five == 5 and kwargs == {"T": tl.float16}


def test_live_arguments_are_described_or_not_at_all() -> None:
    x = torch.zeros(8, 8, dtype=torch.bfloat16)
    assert str(argspec.describe((x.T, x[0, 1:], 3), {"BLOCK": 4})) == "*bf16[8,8]:[1,8], *bf16[7]+1, 3, BLOCK=4"
    assert argspec.describe((object(),), {}) is None
    assert argspec.describe((torch.zeros(1, dtype=torch.complex64),), {}) is None


def test_grids_are_computed_from_the_configuration() -> None:
    meta = {"M": 100, "N": 7, "BLOCK": 32}
    for text, expected in [("8", (8,)), ("4,2", (4, 2)), ("cdiv(M, BLOCK) * N, min(N, 3), max(M - 1, M % 3 + M // 2)", (28, 3, 99))]:
        assert gridspec.parse(text)(meta) == expected
    assert gridspec.parse("next_power_of_2(M)")(meta) == (128,)


@pytest.mark.parametrize("text", ["", "1,2,3,4", "M.x", "open('x')", "__import__('os')", "M ** 9", "lambda: 1", "1.5", "M[0]", "[1]", "cdiv", "'8'", "True"])
def test_grids_hold_arithmetic_and_nothing_else(text: str) -> None:
    with pytest.raises(UsageError):
        gridspec.parse(text)({"M": 1})
