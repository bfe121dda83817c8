"""Many processes at once, and processes killed at any step of a write: nothing that was published is lost."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_flight import append, children, wait
from test_layers import filled, network  # noqa: F401 - a fixture
from test_ranks import about
from test_records import decision

from gems_runtime import flight, store
from gems_runtime.records import Decision
from gems_runtime.store import Store, disk, place  # noqa: F401 - disk: children need not import diskcache

KEY = decision().key
PROCESSES = 64


def published(opened: Store, record: Decision) -> Decision:
    opened.publish(record)
    return record


def test_sixty_four_cold_processes_make_one_result_and_no_error(tmp_path: Path) -> None:
    def work(i: int) -> None:
        opened = store.open(tmp_path / "gems")

        def make() -> Decision:
            append(tmp_path / "made", str(i))
            time.sleep(0.1)
            return published(opened, decision(host=str(i)))

        found = flight.single(flight.guards(opened), KEY, lambda: opened.decision(KEY), make, 60.0)
        append(tmp_path / "winners", found.host)

    assert wait(children(PROCESSES, work)) == [0] * PROCESSES
    winners = (tmp_path / "winners").read_text().split()
    assert len(winners) == PROCESSES and set(winners) == set((tmp_path / "made").read_text().split()) and len(set(winners)) == 1
    assert not list((tmp_path / "gems" / "locks").iterdir())


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    def work(i: int) -> None:
        opened = store.open(tmp_path / "gems")
        for n in range(8):
            opened.publish(about(100 * i + n))

    assert wait(children(16, work)) == [0] * 16
    assert {r.key for r in store.open(tmp_path / "gems").records()} == {about(100 * i + n).key for i in range(16) for n in range(8)}


def killed_at(step: int, work: Callable[[], object], counted: Path) -> None:
    """Run `work` in a process that is killed at its step-th call of a function; how many there are, if it outlives that."""

    def run(i: int) -> None:
        count = 0

        def watch(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)
        work()
        sys.setprofile(None)
        counted.write_text(str(count))

    assert wait(children(1, run))[0] in (0, -signal.SIGKILL)


@pytest.mark.parametrize("kind", ["index", "files", "owner files"])
def test_a_process_killed_at_any_step_loses_nothing_and_holds_nobody_up(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if kind != "index":
        request.getfixturevalue("network")
    guard = flight.Lease(tmp_path / "locks") if kind == "owner files" else flight.FileLock(tmp_path / "locks")
    folder, counted = tmp_path / "gems", tmp_path / "counted"

    def tune(n: int) -> Decision:
        opened = store.open(folder)
        return flight.single([guard], about(n).key, lambda: opened.decision(about(n).key), lambda: published(opened, about(n)), 5.0)

    killed_at(0, lambda: tune(0), counted)
    steps = int(counted.read_text())
    assert steps > 100
    rng = random.Random(11)
    for n, step in enumerate(sorted(rng.sample(range(1, steps), 24)), 1):
        killed_at(step, lambda n=n: tune(n), counted)
        began = time.monotonic()
        assert tune(n) == about(n)
        assert time.monotonic() - began < 1.0
        assert {r.key for r in store.open(folder).records()} == {about(i).key for i in range(n + 1)}


@pytest.mark.parametrize("kind", ["index", "files"])
def test_an_entry_that_is_being_replaced_is_the_old_or_the_new_one(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "files":
        request.getfixturevalue("network")
    folder, counted = filled(tmp_path / "gems", decision()), tmp_path / "counted"

    def replace() -> None:
        store.open(folder).publish(decision(host="new"))

    killed_at(0, replace, counted)
    steps = range(1, int(counted.read_text()))
    filled(folder, decision())
    for step in steps if len(steps) < 150 else random.Random(17).sample(steps, 40):
        killed_at(step, replace, counted)
        assert store.open(folder).decision(KEY) in (decision(), decision(host="new"))


def test_a_flipped_bit_anywhere_in_the_database_is_never_an_exception(tmp_path: Path) -> None:
    folder = filled(tmp_path / "gems", *(about(n) for n in range(20)))
    path = folder / "index" / "cache.db"
    whole, rng = path.read_bytes(), random.Random(13)
    answers = set()
    for _ in range(60):
        torn = bytearray(whole)
        for _ in range(rng.choice((1, 1, 50))):
            torn[rng.randrange(len(torn))] ^= 1 << rng.randrange(8)
        for stale in path.parent.glob("*"):
            stale.unlink()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(torn)
        opened = store.open(folder)
        found = [opened.decision(about(n).key) for n in range(20)]
        assert all(record in (None, about(n)) for n, record in enumerate(found))
        opened.publish(about(50))
        assert opened.decision(about(50).key) == about(50)
        opened.close()
        answers.add(None in found)
    assert answers == {True, False}
