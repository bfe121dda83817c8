"""Bundles: what is carried arrives unchanged, and what anyone tampered with is refused with nothing written."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from test_layers import filled, tree
from test_ranks import OTHER, about
from test_records import decision, measurement
from test_store import Payload

from gems_runtime import cli, records, settings, store
from gems_runtime.errors import StoreError
from gems_runtime.store import bundle, exchange, kernels
from gems_runtime.store.bundle import Bundle
from gems_runtime.store.files import Files

KEY = "A" * 52
KERNEL = {f"{KEY}/k.json": b"{}", f"{KEY}/k.cubin": b"\x7fELF code"}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made.gemsx"
    bundle.write(path, [decision(), measurement(), about(2)], KERNEL, {"triton": "x"})
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(list(words))
    return (code, *capsys.readouterr())


def resealed(path: Path, change: Callable[[dict[str, bytes]], None], seal: bool = True) -> Path:
    """The bundle made anew with changed members, by someone who knows the format."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, blob in members.items():
            archive.writestr(zipfile.ZipInfo(name), blob, zipfile.ZIP_DEFLATED)
        archive.comment = b"0" * 64
    blob = out.getvalue()[:-64]
    path.write_bytes(blob + (hashlib.sha256(blob).hexdigest().encode() if seal else b"0" * 64))
    return path


def listed(members: dict[str, bytes], name: str, blob: bytes) -> None:
    """Put a member in, and in the manifest."""
    members[name] = blob
    manifest = json.loads(members["manifest.json"])
    manifest["sha256"][name] = hashlib.sha256(blob).hexdigest()
    members["manifest.json"] = json.dumps(manifest).encode()


def with_text(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    """A change of the records' text that the hashes know of."""

    def change(members: dict[str, bytes]) -> None:
        for name in [n for n in members if n.startswith("records/")]:
            assert old.encode() in members[name]
            listed(members, name, members[name].replace(old.encode(), new.encode()))

    return change


def test_what_goes_in_comes_out(made: Path) -> None:
    opened = Bundle(made)
    assert sorted(map(records.encode, opened.records())) == sorted(map(records.encode, [decision(), measurement(), about(2)]))
    assert opened.get(f"d/{decision().key}") == records.encode(decision()) and opened.get("d/" + "0" * 32) is None
    assert {name: opened.kernel(name) for name in opened.kernels} == KERNEL


def test_the_same_entries_make_the_same_bytes(made: Path, tmp_path: Path) -> None:
    bundle.write(tmp_path / "again.gemsx", [about(2), measurement(), decision()], KERNEL, {"triton": "x"})
    assert made.read_bytes() == (tmp_path / "again.gemsx").read_bytes()


def test_any_changed_byte_and_any_truncation_is_refused(made: Path) -> None:
    whole, rng = made.read_bytes(), random.Random(5)
    for place in [*rng.sample(range(len(whole)), 200), *range(len(whole) - 64, len(whole), 9)]:
        torn = bytearray(whole)
        torn[place] ^= 1 << rng.randrange(8)
        made.write_bytes(torn)
        with pytest.raises(StoreError, match="refused"):
            Bundle(made)
    for length in (0, 1, 63, 64, 65, len(whole) // 2, len(whole) - 1):
        made.write_bytes(whole[:length])
        with pytest.raises(StoreError, match="refused"):
            Bundle(made)


HOSTILE: dict[str, Callable[[dict[str, bytes]], None]] = {
    "an edited record": lambda m: m.update({n: b.replace(b'"ok"', b'"oor"') for n, b in m.items() if n.startswith("records/")}),
    "an edited record with its hash": with_text('"p50_us": 1.5', '"p50_us": 0.1'),
    "a path upwards": lambda m: listed(m, "kernels/../../evil", b"x"),
    "an absolute path": lambda m: listed(m, "/tmp/evil", b"x"),
    "a path upwards in a kernel": lambda m: listed(m, f"kernels/{KEY}/..", b"x"),
    "a hidden file": lambda m: listed(m, f"kernels/{KEY}/.bashrc", b"x"),
    "a backslash": lambda m: listed(m, f"kernels/{KEY}\\..\\evil", b"x"),
    "a pickle": lambda m: listed(m, "records/x.pkl", pickle.dumps(Payload(Path("/tmp/gems-ran")))),
    "a pickle as records": lambda m: listed(m, "records/x.json", pickle.dumps(Payload(Path("/tmp/gems-ran")))),
    "Python code": lambda m: listed(m, "records/__init__.py", b"print()"),
    "a member that is not listed": lambda m: m.update({"records/more.json": b"[]"}),
    "a member that is missing": lambda m: m.pop(next(n for n in m if n.startswith("records/"))),
    "no manifest": lambda m: m.pop("manifest.json"),
    "a manifest that is a list": lambda m: m.update({"manifest.json": b"[]"}),
    "a deep manifest": lambda m: m.update({"manifest.json": b"[" * 100_000}),
    "another schema": lambda m: m.update({"manifest.json": m["manifest.json"].replace(b'"schema": %d' % records.SCHEMA, b'"schema": 99')}),
    "names that are no text": lambda m: m.update({"manifest.json": m["manifest.json"].replace(b'"m/', b'["m/', 1)}),
    "one name too many": lambda m: m.update({"manifest.json": m["manifest.json"].replace(b'"d/', b'"d/00", "d/', 1)}),
    "NaN": with_text('"p50_us": 1.5', '"p50_us": NaN'),
    "infinity": with_text('"p50_us": 1.5', '"p50_us": 1e999'),
    "a huge integer": with_text('"p50_us": 1.5', '"p50_us": ' + "9" * 100_000),
    "deep nesting": with_text('"p50_us": 1.5', '"p50_us": ' + "[" * 5000 + "]" * 5000),
    "a kernel that is not as listed": lambda m: m.update({f"kernels/{KEY}/k.cubin": b"other code"}),
    "a bomb": lambda m: listed(m, "records/bomb.json", b" " * (65 << 20)),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bundles_are_refused_and_nothing_is_written(
    made: Path, own_store: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    resealed(made, change)
    before = tree(tmp_path)
    code, out, err = run(capsys, "import", str(made), "--with-kernels")
    assert code == 3 and out == "" and err.startswith(f"gems-cache: the bundle {made} is refused: ") and err.count("\n") == 1
    assert tree(tmp_path) == before and not own_store.exists() and not Path("/tmp/gems-ran").exists()


def test_resealing_alone_is_no_crime(made: Path) -> None:
    """The hostile bundles are refused for what was changed in them."""
    assert len(Bundle(resealed(made, lambda members: None)).records()) == 3
    with pytest.raises(StoreError, match="changed after it was made"):
        Bundle(resealed(made, lambda members: None, seal=False))


def test_a_record_whose_key_is_not_its_own_is_refused(tmp_path: Path) -> None:
    bundle.write(tmp_path / "x.gemsx", [decision(key="0" * 32)])
    with pytest.raises(StoreError, match="not that of its fields"):
        Bundle(tmp_path / "x.gemsx").records()


def test_export_and_import_elsewhere_give_an_equal_digest(own_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(own_store, decision(), about(2), measurement())
    path = str(tmp_path / "carried.gemsx")
    code, out, _ = run(capsys, "export", path, "--json")
    exported = json.loads(out)
    assert code == 0 and (exported["decisions"], exported["measurements"]) == (2, 1)
    with settings.override(cache_dir=tmp_path / "elsewhere"):
        code, out, _ = run(capsys, "import", path, "--dry-run", "--json")
        assert code == 0 and json.loads(out)["add"] == 3 and not (tmp_path / "elsewhere").exists()
        assert run(capsys, "import", path)[0] == 0
        assert store.current().digest() == exported["digest"]
        assert json.loads(run(capsys, "import", path, "--json")[1])["same"] == 3
        assert run(capsys, "diff", path)[0] == 0
    assert run(capsys, "diff", str(tmp_path / "elsewhere"))[0] == 0


def test_export_takes_a_kernel_or_a_device(own_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {**decision().fields, "device": {"name": "NVIDIA H100"}}
    h100 = decision(key=records.digest(fields), fields=fields, kernel="other.kernel")
    filled(own_store, decision(), h100)
    for words in (["--kernel", "other"], ["--device", "H100"]):
        assert run(capsys, "export", str(tmp_path / "x.gemsx"), *words)[0] == 0
        assert Bundle(tmp_path / "x.gemsx").records() == [h100]
    # a foreign device's entry is kept and answers nobody here: its key is another
    with settings.override(cache_dir=tmp_path / "h200"):
        assert run(capsys, "import", str(tmp_path / "x.gemsx"))[0] == 0
        assert store.current().decision(h100.key) == h100 and store.current().decision(decision().key) is None
    assert run(capsys, "export", str(tmp_path / "x.gemsx"), "--kernel", "nothing")[0] == 1
    assert run(capsys, "export", str(tmp_path / "x.zip"))[0] == 2


@pytest.mark.parametrize(("rule", "kept"), [("best", "fast"), ("newer", "new"), ("ours", "ours"), ("theirs", "theirs")])
def test_merging_follows_its_rule(rule: str, kept: str) -> None:
    ours = decision(host="ours", time=1.0, top=[[OTHER, 5.0]])
    for host, time, us in (("fast", 0.5, 4.0), ("new", 2.0, 6.0), ("theirs", 0.5, 6.0)):
        theirs = decision(host=host, time=time, top=[[OTHER, us]])
        (change,) = exchange.changes({f"d/{ours.key}": ours}, {f"d/{ours.key}": theirs}, rule)
        is_taken = kept in (host, "theirs")
        assert (change.action, change.record) == (("replace", theirs) if is_taken else ("keep", ours))
    failed, fine = measurement(status="oor", p50_us=None), measurement()
    (change,) = exchange.changes({"m": failed}, {"m": fine}, "best")
    assert change.action == "replace"


def test_merge_makes_one_bundle_of_several(made: Path, own_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(own_store, about(5), decision(top=[[OTHER, 0.1]], config=OTHER))
    out = str(tmp_path / "all.gemsx")
    assert run(capsys, "merge", out, str(made), "here", str(own_store))[0] == 0
    held = {records.name_of(r): r for r in Bundle(Path(out)).records()}
    assert len(held) == 4 and held[f"d/{decision().key}"].config == OTHER
    assert run(capsys, "merge", out, str(made), "here", "--merge", "ours")[0] == 0
    assert {r.key: r for r in Bundle(Path(out)).records() if r == decision()}
    assert run(capsys, "merge", out, "/nowhere")[0] == 2


def test_diff_names_the_problems_that_differ(made: Path, own_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(own_store, decision(config=OTHER), about(3))
    code, out, _ = run(capsys, "diff", str(made), "--json")
    found = json.loads(out)
    assert code == 1 and {d["problem"]["n"]: (d["a"] is None, d["b"] is None) for d in found["differences"]} == {
        1: (False, False),
        2: (False, True),
        3: (True, False),
    }
    assert found["digests"][0] != found["digests"][1]
    assert "BLOCK=128" in run(capsys, "diff", str(made))[1]


def test_a_store_that_is_looked_at_is_left_as_it_is(own_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = filled(tmp_path / "theirs", decision())
    Files(theirs / "entries").put(f"d/{about(3).key}", "torn")
    before = {p: p.read_bytes() for p in theirs.rglob("*") if p.is_file()}
    assert run(capsys, "diff", str(theirs))[0] == 1 and run(capsys, "merge", str(tmp_path / "all.gemsx"), str(theirs))[0] == 0
    assert {p: p.read_bytes() for p in theirs.rglob("*") if p.is_file()} == before
    assert [r for r in Bundle(tmp_path / "all.gemsx").records()] == [decision()]


def test_compiled_kernels_arrive_as_triton_looks_for_them(tmp_path: Path, made: Path) -> None:
    here = tmp_path / "triton"
    assert kernels.install(Bundle(made), here) == 1
    group = json.loads((here / KEY / "__grp__k.json").read_text())
    assert {name: Path(place).read_bytes() for name, place in group["child_paths"].items()} == {"k.json": b"{}", "k.cubin": b"\x7fELF code"}
    assert kernels.install(Bundle(made), here) == 0
    assert kernels.collect(here, {"k"}) == KERNEL and kernels.collect(here, {"other"}) == {}
    assert not list(here.glob(".importing-*"))
