"""Other tools' files: read as seeds, which are tried and never believed; and written as those tools read them."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton
from test_bundle import run
from test_records import decision
from void_device import KERNEL, bench, device_with, forget, load

from gems_runtime import settings, stats, store, tuner
from gems_runtime.records import SCHEMA, Decision, Measurement, digest
from gems_runtime.settings import Mode
from gems_runtime.store.seeds import seed

MOE = {
    "triton_version": "3.5.0",
    "16": {"BLOCK": 512, "num_warps": 8, "num_stages": 4},
    "4096": {"BLOCK": 1024, "num_warps": 8, "num_stages": 3},
}
MOE_NAME = "E=8,N=14336,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json"


@pytest.fixture(autouse=True)
def void(triton_cache: None) -> Iterator[None]:
    bench.reset()
    stats.reset()
    with device_with():
        yield


def prime(kernel: object) -> triton.Config:
    forget()
    kernel.cache.clear()
    return tuner.prime(kernel, (torch.zeros(1024), torch.zeros(1024), 1024), {}, (8,))


def written(folder: Path, name: str, value: object) -> str:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_what_tritons_own_autotuner_has_written_is_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Triton itself writes the file here, so that a version which writes another is noticed."""
    source = KERNEL.replace("(64, 128, 256)", "(512, 1024)").replace("do_bench=bench", "do_bench=bench, cache_results=True")
    theirs = load(tmp_path, source)
    bench.reset(2.0, 1.0)
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path / "triton")
        theirs.kernel[(8,)](torch.zeros(1024), torch.zeros(1024), 1024)
    code, out, _ = run(capsys, "import", "--from", "triton", str(tmp_path / "triton"), "--json")
    (row,) = json.loads(out)["seeds"]
    assert code == 0 and (row["kernel"], row["kwargs"], row["num_warps"]) == ("kernel", {"BLOCK": 1024}, 4)
    bench.reset(4.0, 3.0, 2.0, 1.0)
    assert prime(load(tmp_path).kernel).kwargs == {"BLOCK": 1024} and bench.count == 4


def test_a_seed_is_timed_at_the_next_tuning_and_changes_nothing_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = load(tmp_path)
    bench.reset(3.0, 1.0, 2.0)
    assert prime(module.kernel).kwargs == {"BLOCK": 128}
    path = written(tmp_path, MOE_NAME, MOE)
    name = f"{module.__name__}.kernel"
    assert run(capsys, "import", path, "--from", "vllm-moe", "--kernel", name, "--dry-run")[0] == 0
    assert not store.current().seeds_of(name)
    code, out, err = run(capsys, "import", path, "--from", "vllm-moe", "--kernel", name)
    assert code == 0 and out.count("\n") == 2 and "2 of 2 configurations were kept as seeds" in err
    assert "0 of 2" in run(capsys, "import", path, "--from", "vllm-moe", "--kernel", name)[2]
    assert prime(module.kernel).kwargs == {"BLOCK": 128} and bench.count == 3
    bench.reset(3.0, 2.0, 2.5, 1.0, 4.0)
    with settings.override(tune=Mode.REFRESH):
        chosen = prime(module.kernel)
    assert (chosen.kwargs, chosen.num_warps, chosen.num_stages) == ({"BLOCK": 512}, 8, 4) and bench.count == 5
    # another process finds it, for as long as the seed is there
    bench.reset()
    assert prime(module.kernel).kwargs == {"BLOCK": 512} and bench.count == 0
    store.current().seeds.path.unlink()
    with settings.override(tune=Mode.FROZEN):
        assert prime(module.kernel).kwargs == {"BLOCK": 64}


# As flash-linear-attention 0.6.0 reads them (fla/ops/utils/cache.py): by Triton's tuning key, and one for the rest.
FLA = {
    "kernel_name": "kernel",
    "triton_version": "3.6.0",
    "autotune_entries": {
        "5d41402a": {
            "autotune_key": [1024, "torch.float32"],
            "config": {"kwargs": {"BLOCK": 512}, "num_warps": 8, "num_stages": 4, "num_ctas": 1, "maxnreg": None, "ir_override": None},
        }
    },
    "default_config": {"kwargs": {"BLOCK": 1024}, "num_warps": 4, "num_stages": 3},
}


def test_what_flash_linear_attention_has_found_is_a_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "NVIDIA_H200"
    folder.mkdir()
    written(folder, "kernel.json", FLA)
    written(folder, "other.json", FLA["default_config"])  # the whole file, as older versions wrote it
    code, out, _ = run(capsys, "import", "--from", "fla", str(folder), "--json")
    rows = json.loads(out)["seeds"]
    assert code == 0
    assert [(row["kernel"], row["kwargs"], row["num_warps"]) for row in rows] == [
        ("kernel", {"BLOCK": 512}, 8), ("kernel", {"BLOCK": 1024}, 4), ("other", {"BLOCK": 1024}, 4),
    ]  # fmt: skip
    bench.reset(4.0, 3.0, 2.0, 5.0, 1.0)
    assert prime(load(tmp_path).kernel).kwargs == {"BLOCK": 1024} and bench.count == 5


def test_a_seed_that_computes_something_else_never_wins(tmp_path: Path) -> None:
    module = load(tmp_path)
    forget()
    store.current().seeds.add([seed("kernel", {"kwargs": {"BLOCK": 512}})])
    bench.reset(4.0, 3.0, 2.0, 1.0)
    with device_with(lambda x, y, n, block: y.copy_(x + (2.0 if block == 512 else 1.0))):
        assert prime(module.kernel).kwargs == {"BLOCK": 256} and bench.count == 3
    measured = {r.config["kwargs"]["BLOCK"]: r.status for r in store.current().records() if isinstance(r, Measurement)}
    assert measured == {64: "ok", 128: "ok", 256: "ok", 512: "numerics"}


@pytest.mark.parametrize("fields", [{"BLOCK": 512, "OTHER": 1}, {}], ids=str)
def test_a_seed_that_does_not_fit_is_passed_over(tmp_path: Path, fields: dict[str, int]) -> None:
    forget()
    store.current().seeds.add([seed("kernel", {"kwargs": fields}), seed("kernel", {"kwargs": {"BLOCK": 64}, "num_warps": 4})])
    prime(load(tmp_path).kernel)
    assert bench.count == 3


def test_seeds_are_not_tried_where_answers_are_not_checked_nor_beside_hooks(tmp_path: Path) -> None:
    forget()
    store.current().seeds.add([seed("kernel", {"kwargs": {"BLOCK": 512}})])
    hooked = KERNEL.replace("num_warps=4)", "num_warps=4, pre_hook=lambda args: None)")
    prime(load(tmp_path, hooked).kernel)
    with settings.override(check_numerics=False):
        prime(load(tmp_path).kernel)
    assert bench.count == 6


def test_nonsense_in_the_seeds_file_is_said_once_and_passed_over(
    tmp_path: Path, own_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_store.mkdir(mode=0o700)
    for text in ("{", *(json.dumps({"schema": SCHEMA, "seeds": {"kernel": [one]}}) for one in ({"kwargs": {"BLOCK": [1]}}, 7))):
        (own_store / "seeds.json").write_text(text)
        forget()
        caplog.clear()
        prime(load(tmp_path, KERNEL.replace("x + 1", f"x + {len(text)}")).kernel)
        assert len([r for r in caplog.records if "seeds are not used" in r.message]) == 1


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("kernel.json", {}, ["--from", "triton"]),
        ("kernel.autotune.json", "{", ["--from", "triton"]),
        ("kernel.autotune.json", "[" * 5000, ["--from", "triton"]),
        ("kernel.autotune.json", {}, ["--from", "triton"]),
        ("kernel.autotune.json", {"configs_timings": [7]}, ["--from", "triton"]),
        ("kernel.autotune.json", {"configs_timings": [[{"kwargs": {"BLOCK": []}}, [1.0]]]}, ["--from", "triton"]),
        ("kernel.autotune.json", {"configs_timings": [[{"kwargs": {}, "num_warps": "4"}, [1.0]]]}, ["--from", "triton"]),
        ("tuned.json", MOE, ["--from", "vllm-moe", "--kernel", "m.k"]),
        (MOE_NAME, MOE, ["--from", "vllm-moe"]),
        (MOE_NAME, MOE, ["--from", "vllm-moe", "--kernel", "no name"]),
        ("tuned.json", [], ["--from", "fla"]),
        ("tuned.json", {"autotune_entries": [1]}, ["--from", "fla"]),
        ("tuned.json", {"autotune_entries": {"a": {"autotune_key": []}}}, ["--from", "fla"]),
        (MOE_NAME, [], ["--from", "vllm-moe", "--kernel", "m.k"]),
        (MOE_NAME, {"16": 7}, ["--from", "vllm-moe", "--kernel", "m.k"]),
        (MOE_NAME, MOE, ["--from", "helion"]),
        ("kernel.autotune.json", {}, ["--kernel", "m.k"]),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_in_a_sentence(
    tmp_path: Path, own_store: Path, name: str, value: object, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "import", written(tmp_path, name, value), *words)
    assert (code, out) == (2, "") and err.startswith("gems-cache: ") and err.count("\n") == 1
    assert not own_store.exists()


def test_times_that_triton_could_not_take_are_no_winners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '{"key": [1], "configs_timings": [[{"kwargs": {"BLOCK": 1}}, [Infinity, Infinity]], [{"kwargs": {"BLOCK": 2}}, 0.5]]}'
    code, out, _ = run(capsys, "import", written(tmp_path, "k.autotune.json", text), "--from", "triton", "--json")
    assert code == 0 and [row["kwargs"] for row in json.loads(out)["seeds"]] == [{"BLOCK": 2}]


def moe(tokens: int, us: float, **changes: object) -> Decision:
    problem = {"key": {"E": 8, "N": 512, "M": tokens}, **changes}
    fields = {"kernel": {"name": "k"}, "device": {"name": "NVIDIA H200"}, "problem": problem}
    kwargs = {"BLOCK_SIZE_M": tokens, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 32, "GROUP_SIZE_M": 1}
    config = {"kwargs": kwargs, "num_warps": 4, "num_stages": None}
    return decision(key=digest(fields), kernel="m.moe", fields=fields, config=config, top=[[config, us]])


def test_decisions_are_written_as_python(own_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hooked = replace(moe(32, 1.0), config={**moe(32, 1.0).config, "pre_hook": ["h", "x"]})
    evil = replace(moe(64, 1.0), kernel="m.k'\"\nraise SystemExit\n")
    for record in (decision(), hooked, evil):
        store.current().publish(record)
    code, out, err = run(capsys, "export", "--to", "python", str(tmp_path / "chosen.py"))
    assert code == 0 and out.split()[0] == "2" and "1 decisions do not fit" in err
    chosen = {row["kernel"]: row for row in runpy.run_path(str(tmp_path / "chosen.py"))["CHOSEN"]}
    assert chosen["m.k"]["config"].kwargs == {"BLOCK": 64, "EVEN": False, "ACC": None} and chosen["m.k"]["us"] == 2.0
    assert evil.kernel in chosen


def test_decisions_are_written_as_vllm_reads_them_and_come_back_as_seeds(
    own_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for record in (moe(64, 1.0), moe(16, 2.0), decision()):
        store.current().publish(record)
    code, out, _ = run(capsys, "export", "--to", "vllm-moe", str(tmp_path / "moe"), "--json")
    (path,) = (tmp_path / "moe").iterdir()
    assert code == 0 and json.loads(out) == {"files": {str(path): 2}, "left_out": 1}
    assert path.name == "E=8,N=512,device_name=NVIDIA_H200.json"
    held = json.loads(path.read_text())
    assert list(held) == ["16", "64"] and held["16"] == {**moe(16, 2.0).config["kwargs"], "num_warps": 4}
    assert run(capsys, "import", str(path), "--from", "vllm-moe", "--kernel", "m.moe")[0] == 0
    assert len(store.current().seeds_of("m.moe")) == 2 and json.loads(run(capsys, "status", "--json")[1])["seeds"] == 2


@pytest.mark.parametrize("words", [["--to", "python", "x.txt"], ["--to", "vllm-moe", "x"], ["--to", "python", "x.py", "--with-kernels"]], ids=" ".join)
def test_what_cannot_be_written_is_refused(own_store: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    store.current().publish(decision())
    assert run(capsys, "export", *words)[0] == 2
