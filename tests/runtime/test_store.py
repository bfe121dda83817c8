"""The store as a directory that others may have written to, torn, or made read-only."""

from __future__ import annotations

import logging
import os
import pickle
import random
import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import diskcache
import pytest
from test_records import FIELDS, decision, measurement

from gems_runtime import records, settings, stats, store
from gems_runtime.errors import StoreError
from gems_runtime.records import digest
from gems_runtime.store import index
from gems_runtime.store.disk import TextDisk
from gems_runtime.store.index import Index
from gems_runtime.store.rows import UnsafeRow


class Payload:
    """Pickles to something that makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def rows(folder: Path, query: str, *values: object) -> list[tuple]:
    with sqlite3.connect(folder / "index" / "cache.db") as con:
        return con.execute(query, values).fetchall()


def plant(folder: Path, **columns: object) -> None:
    """Put a row into the database behind the store's back."""
    row = {"key": "m/x", "raw": 1, "store_time": 0, "access_time": 0, "mode": 1, "value": "x", **columns}
    marks = ",".join("?" * len(row))
    rows(folder, f"INSERT OR REPLACE INTO Cache ({','.join(row)}) VALUES ({marks})", *row.values())


@pytest.fixture
def filled(own_store: Path) -> Path:
    stats.reset()
    opened = store.open(own_store)
    opened.publish(decision())
    opened.publish(measurement())
    opened.close()
    return own_store


def test_records_are_read_back_by_another_store(filled: Path) -> None:
    again = store.open(filled)
    assert again.decision(decision().key) == decision()
    assert again.measurement(measurement().key) == measurement()
    assert [records.name_of(r)[0] for r in again.records()] == ["d", "m"]
    assert again.find(decision().key[:5]) == [decision(), measurement()]


def test_looking_makes_nothing(own_store: Path) -> None:
    opened = store.open(own_store)
    assert opened.decision("0" * 32) is None and list(opened.records()) == [] and opened.find("0") == []
    opened.require_writable()
    assert not own_store.exists()


def test_directories_and_files_are_private(own_store: Path) -> None:
    opened = store.open(own_store)
    opened.publish(decision())
    held = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (own_store, *own_store.rglob("*"))}
    assert held == {"gems": 0o700, "index": 0o700, "cache.db": 0o600, "cache.db-wal": 0o600, "cache.db-shm": 0o600}


@pytest.mark.parametrize("as_key", [False, True])
def test_a_pickle_never_runs(filled: Path, tmp_path: Path, as_key: bool, caplog: pytest.LogCaptureFixture) -> None:
    mark = tmp_path / "ran"
    payload = pickle.dumps(Payload(mark))
    if as_key:
        plant(filled, key=payload, raw=0)
    else:
        rows(filled, "UPDATE Cache SET mode = 4, value = ?", payload)
    opened = store.open(filled)
    found = list(opened.records())
    assert found == ([decision(), measurement()] if as_key else [])
    assert opened.decision(decision().key) == (decision() if as_key else None)
    assert not mark.exists()
    if not as_key:
        assert stats.snapshot()["rejected"] == 2 and len(caplog.records) == 1
    pickle.loads(payload)
    assert mark.exists()  # the payload was live


def test_the_plain_json_disk_of_diskcache_would_have_run_it(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    disk = diskcache.JSONDisk(str(tmp_path))
    with pytest.raises((TypeError, ValueError, AttributeError)):
        disk.fetch(4, None, pickle.dumps(Payload(mark)), False)
    assert mark.exists()
    mark.unlink()
    safe = TextDisk(str(tmp_path))
    with pytest.raises(UnsafeRow):
        safe.fetch(4, None, pickle.dumps(Payload(mark)), False)
    assert safe.get(pickle.dumps(Payload(mark)), False) == "" and not mark.exists()


@pytest.mark.parametrize("mode", [2, 3, 4])
def test_a_row_that_names_a_file_neither_reads_nor_deletes_it(filled: Path, tmp_path: Path, mode: int) -> None:
    secret = tmp_path / "secret"
    secret.write_text(records.encode(decision()))
    rows(filled, "UPDATE Cache SET mode = ?, value = NULL, filename = ? WHERE key LIKE 'd/%'", mode, f"../../{secret.name}")
    opened = store.open(filled)
    assert opened.decision(decision().key) is None
    assert secret.exists()
    opened.publish(decision())
    assert secret.exists() and store.open(filled).decision(decision().key) == decision()


def test_torn_entries_are_misses_with_one_warning(filled: Path, caplog: pytest.LogCaptureFixture) -> None:
    text, rng = records.encode(decision()), random.Random(3)
    index, opened = Index(filled / "index"), store.open(filled)
    torn = [text[: rng.randrange(len(text))] for _ in range(20)]
    for _ in range(40):
        place = rng.randrange(len(text))
        torn.append(text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :])
    for entry in torn:
        index.put(records.name_of(decision()), entry)
        assert opened.decision(decision().key) is None
        assert index.get(records.name_of(decision())) is None  # it is met once
    assert stats.snapshot()["rejected"] == len(torn) and len(caplog.records) == 1


def test_an_entry_under_another_entrys_name_is_a_miss(filled: Path) -> None:
    other = digest([1])
    Index(filled / "index").put(f"d/{other}", records.encode(decision()))
    assert store.open(filled).decision(other) is None


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 100, None])
def test_a_broken_database_is_put_aside_and_the_store_goes_on(
    filled: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled / "index" / "cache.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage is None else damage)
    opened = store.open(filled)
    assert opened.decision(decision().key) is None
    opened.publish(decision())
    assert opened.decision(decision().key) == decision()
    opened.close()
    assert len(caplog.records) <= 1
    assert store.open(filled).decision(decision().key) == decision()


def test_a_directory_that_cannot_be_made_leaves_memory_and_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    opened = store.open(tmp_path / "file" / "gems")
    for record in (decision(), measurement()):
        opened.publish(record)
    assert opened.decision(decision().key) == decision()
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    with pytest.raises(StoreError):
        store.open(tmp_path / "file" / "gems").require_writable()


READ_ONLY = """
import os, sys
from pathlib import Path
from test_records import decision, measurement
from gems_runtime import store
import gems_runtime.store.disk  # the other user may not read this interpreter's library
os.setgid(65534); os.setuid(65534)
folder = Path(sys.argv[1])
before = sorted(p.name for p in (folder / "index").iterdir())
opened = store.open(folder)
assert opened.decision(decision().key) == decision()
assert opened.measurement("0" * 32) is None
assert len(list(opened.records())) == 2
opened.publish(measurement(key="1" * 32))
assert opened.measurement("1" * 32) is not None
assert sorted(p.name for p in (folder / "index").iterdir()) == before
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give itself a user for whom the directory is read-only")
def test_a_read_only_store_answers_and_keeps_new_results_in_memory(filled: Path, tmp_path: Path) -> None:
    temporary = Path(tempfile.gettempdir())
    above = [p for p in tmp_path.parents if temporary in p.parents]  # pytest makes them for root's eyes alone
    for place in (filled, filled / "index", *filled.rglob("*"), *above, tmp_path):
        place.chmod(0o755 if place.is_dir() else 0o644)
    store._current = None
    path = f"{Path(__file__).parent}:{Path(__file__).parents[2]}"
    environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", READ_ONLY, str(filled)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("results stay in memory") == 1


def test_a_directory_that_others_may_write_to_is_not_believed(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.chmod(0o777)
    os.chown(filled, 12345, 12345) if os.geteuid() == 0 else pytest.skip("needs root to give the directory away")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert store.open(filled).decision(decision().key) is None


def test_a_record_too_large_to_keep_stays_in_memory(own_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = store.open(own_store)
    opened.publish(measurement(fields={**FIELDS, "big": "x" * 100_000}))
    assert opened.measurement(measurement().key) is not None and len(caplog.records) == 1
    assert not own_store.exists()


def test_nothing_makes_room_by_itself(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diskcache would delete the oldest at its limit; here writing fails, and what is there stays."""
    monkeypatch.setattr(index, "_SIZE_LIMIT", 1 << 20)
    opened, written = Index(own_store / "index"), 0
    with pytest.raises(OSError, match="holds more than"):
        for written in range(2000):
            opened.put(f"m/{written:032x}", "x" * 2000)
    opened.close()
    assert written > 200 and len(list(Index(own_store / "index").items())) == written


def test_many_entries_stay(own_store: Path) -> None:
    opened = Index(own_store / "index")
    for i in range(3000):
        opened.put(f"m/{i:032x}", "x" * 500)
    opened.close()
    assert len(list(Index(own_store / "index").items())) == 3000


def test_a_forked_child_reads_and_writes_its_own(filled: Path) -> None:
    with settings.override(cache_dir=filled):
        parent = store.current()
        assert parent.decision(decision().key) is not None
        child = os.fork()
        if child == 0:
            fine = store.current() is not parent and store.current().decision(decision().key) is not None
            store.current().publish(measurement(key="2" * 32))
            os._exit(0 if fine else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert parent.measurement("2" * 32) is not None


def test_the_store_follows_the_settings(own_store: Path, tmp_path: Path) -> None:
    first = store.current()
    assert store.current() is first
    with settings.override(cache_dir=tmp_path / "other"):
        assert store.current() is not first
    with settings.override(store=False):
        assert store.current().directory is None
        store.current().publish(decision())
    assert not own_store.exists()
