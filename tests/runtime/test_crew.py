"""Warming by several processes, in parts, in a given time, again, and after recording a program."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import triton
from void_device import KERNEL, bench, device_with, forget, load

from gems_runtime import begun, cli, crew, device, jobs, journal, settings, stats, store, untuned, warm
from gems_runtime.candidates import Call
from gems_runtime.cli import warm as verb
from gems_runtime.errors import UsageError
from gems_runtime.records import Decision, Measurement
from gems_runtime.settings import Mode

HERE = Path(__file__).parent
ARGS, GRID = "*fp32[1024], *fp32[1024], {}", "cdiv(n, BLOCK)"
_fresh = itertools.count(7_000_000)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, triton_cache: None) -> Path:
    """A folder with a kernel `mine:kernel` that nobody has compiled, from where workers can import it."""
    (tmp_path / "mine.py").write_text(KERNEL.replace("x + 1", f"x + {next(_fresh)}"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{HERE.parents[1]}:{HERE}:{tmp_path}")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(triton.knobs.cache.dir))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    jobs._kernel.cache_clear()
    sys.modules.pop("mine", None)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_gpu", lambda: False)


def calls(*sizes: int) -> list[jobs.Job]:
    return [jobs.KernelJob("mine:kernel", jobs.argspec.parse(ARGS.format(n)), GRID) for n in sizes]


def listed(folder: Path, *sizes: int) -> str:
    path = folder / "calls.jsonl"
    path.write_text("".join(json.dumps(job.record) + "\n" for job in calls(*sizes)))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict, str]:
    code = cli.main(["warm", *words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def test_two_workers_share_the_calls_and_one_that_dies_takes_one_call_with_it(mine: Path) -> None:
    (mine / "deadly.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    deadly, wrong = (jobs.KernelJob(name, jobs.argspec.parse("1"), "1") for name in ("deadly:kernel", "mine:nothing"))
    done: list[int] = []
    report = crew.run([wrong, deadly, *calls(16, 17, 1)], [["--target", "cuda:90"]] * 2, threads=1, progress=lambda: done.append(1))
    assert report.calls == 5 and len(done) == 5 and report.left == 0
    errors = sorted(failure["error"] for failure in report.failed)
    assert errors == ["module 'mine' has no attribute 'nothing'", "the worker that ran it ended with code -9"]
    # three classes of n, three candidates; both workers may compile the same, never none
    assert report.compiles >= 9
    again = warm.run(calls(16, 17, 1), "cuda:90")
    assert again.compiles == 0 and not again.failed


# Python runs this file in every process that starts in the folder: a worker's device is then one of CPU tensors.
DEVICE = """
import os, pathlib, signal, time
import torch, void_device
from gems_runtime import device

def effect(x, y, n, block):
    if block == 128 and torch.is_tensor(x):
        {what}

void_device.bench.times = iter([3.0, 2.0, 1.0])
scope = void_device.device_with(effect)
scope.__enter__()
"""
# what a configuration does -> the status it is noted with
DEADLY = {
    "os.kill(os.getpid(), signal.SIGKILL)": "runtime",
    "time.sleep(600)": "timeout",
    "device.works = lambda: False; raise RuntimeError('an illegal memory access')": "runtime",
}


@pytest.mark.parametrize(("what", "status"), DEADLY.items(), ids=["crash", "hang", "lost device"])
def test_a_configuration_that_kills_or_hangs_its_worker_fails_alone(
    mine: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch, what: str, status: str
) -> None:
    (mine / "sitecustomize.py").write_text(DEVICE.replace("{what}", what))
    monkeypatch.setattr(crew, "LIMIT_S", 3.0)
    done: list[int] = []
    report = crew.run(calls(16), [[]], threads=1, progress=lambda: done.append(1))
    assert not report.failed and (report.calls, report.left, len(done)) == (1, 0, 1)
    forget()
    held = list(store.current().records())
    assert {m.config["kwargs"]["BLOCK"]: m.status for m in held if isinstance(m, Measurement)} == {64: "ok", 128: status, 256: "ok"}
    (decision,) = (r for r in held if isinstance(r, Decision))
    assert decision.config["kwargs"]["BLOCK"] != 128 and decision.tried == {"ok": 2, status: 1}


def test_a_worker_that_gets_no_further_is_not_started_for_ever(mine: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mine / "sitecustomize.py").write_text(DEVICE.replace("{what}", next(iter(DEADLY))))
    with settings.override(tune=Mode.REFRESH):  # which tries again what has failed
        report = crew.run(calls(16), [[]], threads=1)
    assert [f["error"] for f in report.failed] == ["the worker that ran it ended with code -9"]


def test_a_job_that_is_done_is_skipped_when_resuming(mine: Path, no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = listed(mine, 16, 17)
    assert run(capsys, "--from", path)[1]["skipped"] == 0
    code, answer, _ = run(capsys, "--from", path, "--resume")
    assert code == 0 and (answer["skipped"], answer["calls"]) == (2, 0)
    assert run(capsys, "--from", path, "--resume", "--target", "cuda:80")[1]["skipped"] == 0
    assert run(capsys, "--from", listed(mine, 16, 17, 1), "--resume")[1]["skipped"] == 2


def test_a_torn_line_of_the_journal_is_passed_over(own_store: Path) -> None:
    journal.add({"kernel": "a:b"}, "here")
    with journal.path().open("a") as log:
        log.write('{"record": {"kernel"')
    assert list(journal.done("here").values()) == [{"kernel": "a:b"}]
    assert journal.path().stat().st_mode & 0o777 == 0o600


def test_after_the_budget_no_call_is_begun(mine: Path, no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, err = run(capsys, "--from", listed(mine, 16, 17), "--budget", "0")
    assert code == 1 and (answer["calls"], answer["left"]) == (0, 2)
    assert "2 calls were not begun" in err
    report = crew.run(calls(16, 17), [["--target", "cuda:90"]], budget_s=0.0)
    assert (report.calls, report.left) == (0, 2)


def test_shards_are_disjoint_and_complete(mine: Path, no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    path, seen = listed(mine, *range(1, 8), 1), []
    for part in ("1/3", "2/3", "3/3"):
        code = cli.main(["warm", "--from", path, "--dry-run", "--shard", part])
        seen.append(capsys.readouterr().out.splitlines())
        assert code == 0
    assert [len(labels) for labels in seen] == [3, 2, 2]  # the call that is listed twice is one
    assert len(set(itertools.chain(*seen))) == 7


def test_torchrun_shares_out_the_calls(
    mine: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = listed(mine, 1, 2, 3, 4)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    cli.main(["warm", "--from", path, "--dry-run"])
    assert capsys.readouterr().out.splitlines() == [calls(4)[0].label]
    monkeypatch.setattr(device, "count", lambda: 2)
    options = cli.build(cli.VERBS).parse_args(["warm", "--from", path])
    assert verb._workers(options, None) == [["--device", "1"]]
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(UsageError, match="not whole numbers"):
        settings.ranks()


def test_all_devices_have_a_worker_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "count", lambda: 3)
    for choice, expected in (("all", [0, 1, 2]), ("0,2", [0, 2])):
        options = cli.build(cli.VERBS).parse_args(["warm", "--devices", choice, "--jobs", "12"])
        assert verb._workers(options, None) == [["--device", str(n)] for n in expected]
        assert verb._threads(options, len(expected)) == 12 // len(expected)
    assert verb._workers(cli.build(cli.VERBS).parse_args(["warm", "--isolate"]), None) == [["--device", "0"]]
    options = cli.build(cli.VERBS).parse_args(["warm", "--devices", "3"])
    with pytest.raises(UsageError, match="there is no device 3: this host has 3"):
        verb._workers(options, None)


def test_workers_are_begun_before_the_calls_are_known(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each imports torch meanwhile; the crew takes those it asks for, and the others end with the command."""
    started: list[subprocess.Popen] = []

    def start(arguments: list[str], threads: int) -> subprocess.Popen:
        command = [sys.executable, "-c", "import sys; sys.stdin.read()", *arguments, str(threads)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    monkeypatch.setattr(begun, "start", start)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    taken = []

    def warmed(options: object) -> int:
        assert [w.args[-4:] for w in started] == [["--device", n, "--resume", "6"] for n in "01"]
        taken.append(begun.take(["--device", "1", "--resume"], 6))
        return 0

    monkeypatch.setattr(verb, "_warmed", warmed)
    assert cli.main(["warm", "mm", "--devices", "all", "--resume", "--jobs", "12"]) == 0
    assert taken == [started[1]] and started[0].returncode == -signal.SIGKILL and started[1].poll() is None
    started[1].communicate()
    monkeypatch.setattr(verb, "_warmed", lambda options: 0)
    for words in (["0", "--dry-run"], ["0", "--compile-only"], ["0", "--target", "cuda:90"], ["2"]):  # there are 0 and 1
        assert cli.main(["warm", "mm", "--devices", *words]) == 0
    assert len(started) == 2


def test_an_environment_made_for_serving_does_not_keep_warm_from_tuning(
    mine: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    bench.reset()
    path = listed(mine, 16)
    with device_with(), settings.override(tune=Mode.FROZEN, deterministic=True):
        assert run(capsys, "--from", path)[1]["benchmarks"] == 3
        jobs._kernel("mine:kernel").clear()
        assert run(capsys, "--from", path)[1]["benchmarks"] == 0
        jobs._kernel("mine:kernel").clear()
        assert run(capsys, "--from", path, "--refresh")[1]["benchmarks"] == 3


def test_ctrl_c_is_one_sentence(mine: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(warm.Runner, "run", lambda runner, job: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, err = run(capsys, "--from", listed(mine, 16))
    assert code == 130 and err.endswith("gems-cache: stopped; what was measured until now is kept\n")


@pytest.mark.parametrize("words", [("--shard", "0/2"), ("--shard", "3/2"), ("--budget", "soon"), ("--devices", "x"), ("--devices", "all"), ("--isolate",), ("--run", "'"), ("--run", "/no/such")])
def test_wrong_values_are_refused(words: tuple[str, str], mine: Path, no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--from", listed(mine, 1), *words)[0] == 2


PROGRAM = """
import torch
import void_device
from gems_runtime import LibEntry

{kernel}
entry = LibEntry(kernel)
print("the program's own output")
if __name__ == "__main__":
    with void_device.device_with():
        for n in (1024, 2048):
            x = torch.zeros(n)
            entry[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, x, n)
"""


def test_a_program_is_run_and_what_it_called_is_warmed(mine: Path, no_gpu: None, capfd: pytest.CaptureFixture[str]) -> None:
    """Its kernels lie in the program itself, and its grid is a function."""
    (mine / "serve.py").write_text(PROGRAM.format(kernel=(mine / "mine.py").read_text()))
    code, answer, err = run(capfd, "--run", f"{sys.executable} serve.py")
    assert code == 0, err
    assert (answer["calls"], answer["benchmarks"], answer["failed"]) == (2, 0, [])
    assert "the program's own output" in err and "made 2 calls that were not tuned" in err


def test_a_program_that_fails_is_a_finding(mine: Path, no_gpu: None, capfd: pytest.CaptureFixture[str]) -> None:
    code, answer, err = run(capfd, "--run", f"{sys.executable} -c 'raise SystemExit(7)'")
    assert code == 1 and answer["calls"] == 0 and "ended with code 7" in err


SERVER = """
import os, signal, time
with open(os.environ["GEMS_UNTUNED"], "w") as log, open("calls.jsonl") as calls:
    log.write(calls.read())
os.kill(os.getppid(), signal.SIGINT)
time.sleep(0.2)
raise SystemExit(130)
"""


def test_ctrl_c_ends_the_program_and_what_it_called_is_warmed(mine: Path, no_gpu: None, capfd: pytest.CaptureFixture[str]) -> None:
    listed(mine, 16)
    (mine / "server.py").write_text(SERVER)
    # A shell starts what runs in its background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, answer, err = run(capfd, "--run", f"{sys.executable} server.py")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 0 and answer["calls"] == 1 and "made 1 calls" in err


def test_a_recorded_grid_is_right_for_every_candidate(tmp_path: Path, own_store: Path, triton_cache: None) -> None:
    launched: list[tuple] = []
    module = load(tmp_path)
    x = torch.zeros(1024)
    with device_with():
        call = Call(module.kernel, (x, x, 1000), {}, lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]), 2))
        line = untuned.line_of(call, call.candidates())
        assert line["grid"] == [[{"BLOCK": 64}, "16,2"], [{"BLOCK": 128}, "8,2"], [{"BLOCK": 256}, "4,2"]]
        job = jobs.from_record(json.loads(json.dumps(line)))
        bench.reset()
        grids = jobs._grid_of(job.grid)
        launched += [grids({"n": 1000, "BLOCK": block}) for block in (256, 64)]
        assert warm.run([job], None).benchmarks == 3
    assert launched == [(4, 2), (16, 2)]
    with pytest.raises(UsageError, match="record the call again"):
        grids({"n": 1000, "BLOCK": 512})


def test_a_call_that_cannot_be_made_again_says_why(tmp_path: Path, triton_cache: None) -> None:
    module, x = load(tmp_path), torch.zeros(4)
    for call, reason in (
        (Call(module.kernel, (x, object(), 1), {}, (1,)), "an argument of it cannot be written"),
        (Call(module.kernel, (x, x, 1), {}, lambda meta: (meta["ELSEWHERE"],)), "its grid cannot be written"),
    ):
        line = untuned.line_of(call, call.tuner.configs)
        report = warm.run([jobs.from_record(line)], "cuda:90")
        assert reason in report.failed[0]["error"]


def test_a_killed_worker_loses_no_measurement(mine: Path, own_store: Path) -> None:
    """The tuning of one call dies at its third benchmark; the next process times that one alone."""
    code = (
        "import itertools, os, signal, sys, torch, void_device as v; from gems_runtime import tuner\n"
        "from mine import kernel\n"
        "def times():\n    yield from (3.0, 1.0)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "v.bench.times = times()\n"
        "with v.device_with(): tuner.prime(kernel, (torch.zeros(4), torch.zeros(4), 4), {}, (1,))"
    )
    assert os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", code], settings.environment()) == -9
    forget()
    assert sum(isinstance(r, Measurement) for r in store.current().records()) == 2
    bench.reset(2.0)
    stats.reset()
    with device_with(), settings.override(tune=Mode.AUTO):
        from gems_runtime import tuner

        kernel = jobs._kernel("mine:kernel").fn
        assert tuner.prime(kernel, (torch.zeros(4), torch.zeros(4), 4), {}, (1,)).kwargs == {"BLOCK": 128}
    assert bench.count == 1
