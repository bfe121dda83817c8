"""Layers of the store: which answers first, what is only read, what a layer that fails costs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from test_ranks import OTHER, about
from test_records import decision, measurement

from gems_runtime import records, settings, stats, store
from gems_runtime.store import Store, bundle, place, stack
from gems_runtime.store.files import Files

KEY = decision().key


def configured(directory: Path | None, **choice: object) -> Store:
    with settings.override(**{"packaged": False, **choice}) as chosen:
        return Store(directory, chosen)


def filled(directory: Path, *held: records.Record) -> Path:
    opened = store.open(directory)
    for record in held:
        opened.publish(record)
    opened.close()
    return directory


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All of the test's files lie on a network mount."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/root / ext4 rw 0 0\nserver:/x {str(tmp_path.parent)} nfs4 rw 0 0\nproc /proc proc rw 0 0\n")
    monkeypatch.setattr(place, "_MOUNTS", mounts)


def test_layers_answer_in_order_and_the_first_valid_entry_wins(tmp_path: Path) -> None:
    with_warps = lambda n: decision(config={**OTHER, "num_warps": n})
    team = [filled(tmp_path / f"team{n}", with_warps(n)) for n in (4, 8)]
    user = filled(tmp_path / "user", with_warps(2))
    stack_of = lambda: configured(user, team_stores=tuple(team))
    assert stack_of().decision(KEY) == with_warps(2)
    opened = stack_of()
    opened.overrides.pin(with_warps(1))
    assert stack_of().decision(KEY).config["num_warps"] == 1 and stack_of().pinned(KEY).source == "pinned"
    opened.overrides.unpin(KEY)
    assert stack_of().decision(KEY) == with_warps(2) and stack_of().pinned(KEY) is None
    opened.remove([f"d/{KEY}"])
    assert stack_of().decision(KEY) == with_warps(4)
    # what is torn in one layer is answered by the next
    Files(team[0] / "entries").put(f"d/{KEY}", "{}")
    (team[0] / "index" / "cache.db").unlink()
    assert stack_of().decision(KEY) == with_warps(8)
    assert [r.config["num_warps"] for r in stack_of().records()] == [8]


def test_a_team_store_is_never_written(tmp_path: Path) -> None:
    team = filled(tmp_path / "team", decision())
    Files(team / "entries").put(f"d/{about(3).key}", "torn")
    before = {p: p.stat().st_mtime_ns for p in team.rglob("*") if p.is_file()}
    opened = configured(tmp_path / "user", team_stores=(team, tmp_path / "nowhere"))
    assert opened.decision(KEY) == decision() and opened.decision(about(3).key) is None
    opened.publish(measurement())
    assert {p: p.stat().st_mtime_ns for p in team.rglob("*") if p.is_file()} == before


def test_a_bundle_serves_as_a_team_store_and_packages_bring_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "tuned_for_tests"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('a package with data is not imported')")
    bundle.write(package / "ours.gemsx", [decision(), about(2)])
    metadata = tmp_path / "site" / "tuned-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: tuned\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[gems_runtime.stores]\ntests = tuned_for_tests\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for opened in (configured(None, team_stores=(package / "ours.gemsx",)), configured(None, packaged=True)):
        assert opened.decision(KEY) == decision() and opened.decision(about(2).key) == about(2)
        assert opened.decision(about(3).key) is None and len(list(opened.records())) == 2
    assert configured(None).decision(KEY) is None


def test_a_team_store_that_cannot_be_read_is_said_once_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "torn.gemsx").write_bytes(b"PK")
    opened = configured(tmp_path / "user", team_stores=(tmp_path / "torn.gemsx", filled(tmp_path / "team", decision())))
    assert opened.decision(KEY) == decision() and opened.decision(about(2).key) is None
    assert [r.message for r in caplog.records if "torn.gemsx" in r.message][0].startswith("the team store")
    assert len(caplog.records) == 1


def test_an_edited_overrides_file_counts_and_nonsense_in_it_is_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = configured(tmp_path / "user")
    opened.overrides.pin(decision())
    path = tmp_path / "user" / "overrides.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    held = json.loads(path.read_text())
    held["decisions"][KEY]["config"]["num_warps"] = 16
    path.write_text(json.dumps(held))
    assert opened.pinned(KEY).config["num_warps"] == 16
    for nonsense in ("", "[]", "{", path.read_text().replace('"kwargs"', '"kw"'), path.read_text().replace("16", "NaN"), "[" * 5000):
        path.write_text(nonsense)
        assert configured(tmp_path / "user").decision(KEY) is None
    assert all(r.levelname == "WARNING" for r in caplog.records)


def test_on_a_network_mount_there_are_files_and_no_database(tmp_path: Path, network: None) -> None:
    assert place.filesystem(tmp_path / "not" / "yet") == "nfs4" and place.filesystem(Path("/proc/1")) == "proc"
    folder = filled(tmp_path / "gems", decision(), measurement())
    names = tree(folder)
    assert [n for n in names if n.endswith(".json")] == [f"entries/d/{KEY[:2]}/{KEY}.json", f"entries/m/{KEY[:2]}/{KEY}.json"]
    assert not any("cache.db" in name for name in names)
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*")} == {0o600, 0o700}
    again = store.open(folder)
    assert again.decision(KEY) == decision() and len(list(again.records())) == 2
    again.remove([f"d/{KEY}"])
    assert again.decision(KEY) == decision()  # memory has it still
    assert store.open(folder).decision(KEY) is None


@pytest.mark.parametrize("kind", ["nfs", "lustre", "fuse.sshfs", "9p", "cifs"])
def test_network_file_systems_are_known(kind: str) -> None:
    assert place.is_network(kind) and not any(map(place.is_network, ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "")))


def test_every_torn_file_is_a_miss(tmp_path: Path, network: None) -> None:
    folder = filled(tmp_path / "gems", decision())
    (path,) = folder.rglob("*.json")
    whole = path.read_bytes()
    stats.reset()
    for torn in [whole[:n] for n in range(0, len(whole), 7)] + [b"\xff" + whole, b"\x00" * 100_000]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(torn)
        assert store.open(folder).decision(KEY) is None
        assert not path.exists()  # it is met once
    assert stats.snapshot()["rejected"] == len(range(0, len(whole), 7)) + 2


def test_a_directory_filled_elsewhere_answers_with_both_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Files(tmp_path / "gems" / "entries").put(f"d/{KEY}", records.encode(decision()))
    opened = store.open(tmp_path / "gems")
    opened.publish(about(1))
    assert store.open(tmp_path / "gems").decision(KEY) == decision()
    assert store.open(tmp_path / "gems").decision(about(1).key) == about(1)


def test_without_diskcache_there_are_files_and_an_old_index_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path / "gems", decision())
    monkeypatch.setattr(stack.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "diskcache", None)
    opened = store.open(folder)
    assert opened.decision(KEY) == decision()
    opened.publish(about(2))
    assert len(list(folder.rglob("*.json"))) == 1 and store.open(folder).decision(about(2).key) == about(2)


def test_use_is_stamped_at_most_once_a_day(tmp_path: Path, network: None) -> None:
    folder = filled(tmp_path / "gems", decision())
    (path,) = folder.rglob("*.json")
    name = f"d/{KEY}"
    for age, is_stamped in ((3600, False), (90_000, True)):
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
        assert store.open(folder).decision(KEY) is not None
        assert (store.open(folder).last_uses()[name] > then + 1) is is_stamped


def test_use_is_stamped_in_the_index_too(tmp_path: Path) -> None:
    import sqlite3

    folder, name = filled(tmp_path / "gems", decision()), f"d/{KEY}"
    with sqlite3.connect(folder / "index" / "cache.db") as con:
        con.execute("UPDATE Cache SET access_time = access_time - 90000")
    before = store.open(folder).last_uses()[name]
    assert store.open(folder).decision(KEY) is not None
    assert store.open(folder).last_uses()[name] > before + 80_000


READ_ONLY = """
import os, sys
seen = []
sys.addaudithook(lambda event, args: seen.append((event, str(args[0]))) if event in ("os.mkdir", "os.rename", "os.remove", "os.utime") or (event == "open" and isinstance(args[2], int) and args[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)) else None)
from pathlib import Path
from test_records import decision
from gems_runtime import settings, store
folder = Path(sys.argv[1])
with settings.override(cache_dir=folder, team_stores=(), packaged=False):
    assert store.current().decision(decision().key) == decision()
    assert store.current().decision("0" * 32) is None
touched = [s for s in seen if s[1].startswith(str(folder))]
assert not touched, touched
"""


@pytest.mark.parametrize("kind", ["index", "entries"])
def test_a_read_only_image_answers_and_no_file_is_made(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "image"
    if kind == "index":
        filled(folder, decision())
    else:
        Files(folder / "entries").put(f"d/{KEY}", records.encode(decision()))
    places = [folder, *(p for p in folder.rglob("*"))]
    for p in places:
        p.chmod(0o555 if p.is_dir() else 0o444)
    before = tree(folder)
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", READ_ONLY, str(folder)], env=environment, capture_output=True, text=True)
    for p in places:
        p.chmod(0o755 if p.is_dir() else 0o644)
    assert done.returncode == 0, done.stderr
    assert tree(folder) == before
