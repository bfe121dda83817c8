"""`gems-cache status`, `pin`, `unpin` and `prune`."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import pytest
from test_bundle import run
from test_layers import filled
from test_ranks import OTHER, about
from test_records import decision, measurement

from gems_runtime import cli, settings, store
from gems_runtime.records import digest
from gems_runtime.store import pruning, team

DAY = 24 * 3600.0


def used_days_ago(folder: Path, **days: float) -> None:
    """Set when entries were last used; `d` and `m` are the two kinds, `all` both."""
    with sqlite3.connect(folder / "index" / "cache.db") as con:
        for kind, count in days.items():
            con.execute("UPDATE Cache SET access_time = ? WHERE key LIKE ?", (time.time() - count * DAY, f"{kind}/%" if kind != "all" else "%"))


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine was started an hour ago."""
    monkeypatch.setattr(pruning, "_boot_time", lambda: time.time() - 3600)


def names(out: str) -> set[str]:
    return {entry["name"][0] + str(entry["reason"]).split()[0] for entry in json.loads(out)["entries"]}


def test_status_lists_layers_digest_and_drift(own_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(own_store, decision(soft={"torch": "1.0"}), measurement())
    team = filled(tmp_path / "team", about(2), about(3))
    with settings.override(team_stores=(team, tmp_path / "none.gemsx"), packaged=False):
        code, out, _ = run(capsys, "status", "--json")
        found = json.loads(out)
        assert code == 0 and found["decisions"] == 3 and found["drift"] == {"torch 1.0": 1}
        assert found["digest"] == store.current().digest() and found["filesystem"]
        assert [(row["name"], row["entries"]) for row in found["layers"]] == [("overrides", 0), ("user", 2), ("team", 2), ("team", 0)]
        assert "cannot be read" in found["layers"][3]["problem"]
        assert "layer team" in run(capsys, "status")[1]


def test_a_pinned_decision_wins_until_it_is_unpinned(own_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(own_store, decision(), measurement(config=OTHER, p50_us=9.0))
    key = decision().key
    assert run(capsys, "pin", key[:8])[0] == 0
    assert store.current().pinned(key).config == decision().config
    assert run(capsys, "pin", key[:8], "--config", "BLOCK=128")[0] == 0
    assert store.current().pinned(key).config == OTHER and store.current().pinned(key).top[0] == [OTHER, 9.0]
    store.current().forget()
    assert store.current().decision(key).source == "pinned"
    code, _, err = run(capsys, "pin", key[:8], "--config", "BLOCK=7")
    assert code == 2 and "0 of the configurations timed for m.k have 'BLOCK=7'; there are: " in err and "BLOCK=64" in err
    assert run(capsys, "unpin", key[:8])[0] == 0
    store.current().forget()
    assert store.current().decision(key).source == "tuned"
    assert run(capsys, "unpin", key[:8])[0] == 1 and run(capsys, "pin", "ffff")[0] == 1


def test_prune_lists_and_with_apply_deletes_what_nobody_reads(own_store: Path, long_ago: None, capsys: pytest.CaptureFixture[str]) -> None:
    filled(own_store, decision(), about(2), measurement())
    used_days_ago(own_store, d=100, m=80)
    code, out, _ = run(capsys, "prune", "--unused", "90d", "--json")
    assert code == 0 and json.loads(out)["removed"] is False and names(out) == {"dnot"}
    run(capsys, "prune", "--unused", "90d", "--apply", "--dry-run")
    assert len(list(store.open(own_store).records())) == 3
    assert run(capsys, "prune", "--unused", "90d", "--apply")[0] == 0
    assert list(store.open(own_store).records()) == [measurement()]
    assert list(store.current().records()) == [measurement()]


def test_what_was_read_since_the_boot_or_is_pinned_stays(own_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    filled(own_store, decision(), about(2))
    used_days_ago(own_store, all=100)
    monkeypatch.setattr(pruning, "_boot_time", lambda: time.time() - 200 * DAY)
    assert names(run(capsys, "prune", "--unused", "90d", "--json")[1]) == set()
    monkeypatch.setattr(pruning, "_boot_time", lambda: time.time() - 3600)
    run(capsys, "pin", about(2).key)
    used_days_ago(own_store, all=100)  # pinning has read them
    found = json.loads(run(capsys, "prune", "--unused", "90d", "--json")[1])["entries"]
    assert [entry["name"] for entry in found] == [f"d/{decision().key}"]


def test_measurements_are_used_with_the_decision_made_from_them(own_store: Path, long_ago: None, capsys: pytest.CaptureFixture[str]) -> None:
    filled(own_store, decision(soft={"measurements": [measurement().key]}), measurement())
    used_days_ago(own_store, d=50, m=100)
    assert names(run(capsys, "prune", "--unused", "90d", "--json")[1]) == set()


def test_prune_finds_failures_other_compilers_and_what_is_too_much(own_store: Path, long_ago: None, capsys: pytest.CaptureFixture[str]) -> None:
    old = {**decision().fields, "toolchain": {"triton": "2.0", "code": "x"}}
    stale = decision(key=digest(old), fields=old)
    filled(own_store, decision(), stale, measurement(status="oor", p50_us=None))
    used_days_ago(own_store, d=10, m=20)
    assert names(run(capsys, "prune", "--failed", "--json")[1]) == {"mfailed:"}
    found = json.loads(run(capsys, "prune", "--env", "stale", "--json")[1])["entries"]
    assert [entry["name"] for entry in found] == [f"d/{stale.key}"]
    assert names(run(capsys, "prune", "--max-bytes", "800", "--json")[1]) == {"mthe", "dthe"}
    assert names(run(capsys, "prune", "--max-bytes", "1M", "--json")[1]) == set()


@pytest.mark.parametrize("words", [[], ["--unused", "soon"], ["--max-bytes", "-1"], ["--env", "all"]], ids=str)
def test_prune_needs_to_know_what(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "prune", *words)[0] == 2


@pytest.mark.parametrize("words", [["diff", "."], ["merge", "all.gemsx", "."]], ids=" ".join)
def test_a_directory_that_may_not_be_read_is_one_sentence(
    words: list[str], own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> list[object]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(team, "sources", refuse)
    assert cli.main(words) == 3
    assert capsys.readouterr().err == "gems-cache: . cannot be read: Permission denied\n"


def test_an_unusable_store_is_named_with_what_keeps_it_from_being_used(capsys: pytest.CaptureFixture[str]) -> None:
    with settings.override(cache_dir=Path("/proc/1/gems")):
        store.current().publish(decision())
        assert cli.main(["prune", "--failed", "--apply"]) == 3 and cli.main(["show", "zz"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("gems-cache: nothing would be kept: the store /proc/1/gems is not used: ")
    assert told[1] == "gems-cache: the store /proc/1/gems has no entry zz"
