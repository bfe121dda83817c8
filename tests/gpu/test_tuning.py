"""Tuning on a real device: graph timing, capture, refresh, and the command line's checks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from gems_ops import warming
from gems_runtime import LibEntry, bench, cli, crew, entry, jobs, libtuner, settings, stats, store
from gems_runtime.records import Decision
from gems_runtime.settings import Mode

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    stats.reset()
    entry.clear_all()
    monkeypatch.setattr(jobs, "providers", lambda: (warming,))  # in a copied tree nothing is installed
    with settings.override(cache_dir=tmp_path / "gems"):
        yield


def kernel_with(**options: object) -> LibEntry:
    @triton.jit
    def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(y_ptr + i, 2 * tl.load(x_ptr + i, mask=i < n), mask=i < n)

    configs = [triton.Config({"BLOCK": block}, num_warps=4) for block in (32, 1024, 4096)]
    return LibEntry(libtuner(configs, ["n"], **options)(double))


def call(kernel: LibEntry, n: int = 1 << 22) -> torch.Tensor:
    x, y = torch.ones(n, device="cuda"), torch.empty(n, device="cuda")
    kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n)
    assert (y == 2).all()
    return y


@pytest.mark.parametrize("options", [{}, {"use_cuda_graph": True}, {"policy": "exhaustive"}, {"warmup": 5, "rep": 20}], ids=str)
def test_the_clearly_slowest_block_does_not_win(options: dict[str, object]) -> None:
    kernel = kernel_with(**options)
    call(kernel)
    assert stats.snapshot()["benchmark"] == 3 and kernel.best_config.kwargs["BLOCK"] != 32
    (decision,) = (r for r in store.current().records() if isinstance(r, Decision))
    times = {config["kwargs"]["BLOCK"]: p50 for config, p50 in decision.top}
    assert times[32] > 1.2 * min(times.values())
    call(kernel)
    assert stats.snapshot()["benchmark"] == 3


def test_a_graphs_time_is_the_kernels_alone() -> None:
    """4 MiB that stay in the L2: far less than the host's time for a launch, and than a cold launch."""
    buffer = torch.empty(1 << 20, device="cuda")
    launch = bench.Launch(lambda: buffer.add_(1))
    warm, cold = bench.GraphTimer()(launch), bench.ColdTimer()(launch)
    assert 0.5 < warm.p50_us < cold.p50_us


def test_nothing_is_benchmarked_while_a_graph_is_captured() -> None:
    kernel = kernel_with()
    x, y = torch.ones(1 << 16, device="cuda"), torch.empty(1 << 16, device="cuda")
    with settings.override(tune=Mode.OFF):
        kernel[(2048,)](x, y, 1 << 16)  # compiles the default
    kernel.clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernel[(2048,)](x, y, 1 << 16)
    y.zero_()
    graph.replay()
    assert (y == 2).all() and stats.snapshot()["benchmark"] == 0
    call(kernel, 1 << 16)
    assert stats.snapshot()["benchmark"] == 3


def test_refresh_keeps_or_beats_the_decision() -> None:
    kernel = kernel_with()
    call(kernel)
    kernel.clear()
    with settings.override(tune=Mode.REFRESH):
        call(kernel)
    assert stats.snapshot()["benchmark"] == 6 and kernel.best_config.kwargs["BLOCK"] != 32


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, object]:
    entry.clear_all()
    code = cli.main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_what_is_warmed_is_explained_verified_and_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    shape = ["mm", "--shape", "512x512x512"]
    assert said(capsys, "explain", *shape)[0] == 1
    code, report = said(capsys, "warm", *shape)
    assert code == 0 and report["tuned"] == 1
    code, answers = said(capsys, "explain", *shape)
    assert code == 0 and [one["source"] for one in answers] == ["user"]
    code, findings = said(capsys, "verify", "--fresh", "--perf", "25%")
    assert code == 0 and findings["findings"] == [] and findings["calls"] == 1
    code, replayed = said(capsys, "replay")
    assert code == 0 and replayed["decisions"] == 1 and replayed["flips"] == 0


def test_doctor_looks_at_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    _, checks = said(capsys, "doctor")
    found = {one["name"]: one for one in checks}
    assert found["device"]["state"] == "ok" and "%" in found["clock noise"]["text"] and "other GPU users" in found


BREAKER = """
import triton, triton.language as tl

@triton.jit
def kernel(x_ptr, n, BLOCK: tl.constexpr):
    tl.store(x_ptr + n * 1_000_000_000 + tl.arange(0, BLOCK), 1.0)
"""


# An illegal access, in the words of two devices: an H200 has met both.
ADDRESS = re.compile("illegal memory access|operation not supported on global/shared address space")


def test_a_call_that_breaks_the_device_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaker.py").write_text(BREAKER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:{tmp_path}")
    calls = [jobs.KernelJob(f"{tmp_path}/breaker.py:kernel", jobs.argspec.parse(f"*fp32[64], {n}, BLOCK=64"), "1") for n in (1, 0)]
    report = crew.run(calls, [["--device", "0"]])
    assert [failure["label"] for failure in report.failed] == [calls[0].label] and ADDRESS.search(report.failed[0]["error"])
