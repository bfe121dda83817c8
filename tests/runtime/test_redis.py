"""The Redis layer and its lock, against a real server on the loopback device."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from test_flight import append, children, wait, wait_for
from test_layers import configured
from test_ranks import about
from test_records import decision

from gems_runtime import flight, records
from gems_runtime.records import MAX_TEXT
from gems_runtime.store import Store, remote

KEY = decision().key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that keeps nothing on disk."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server; tools/setup test says how to install it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(tmp_path_factory.mktemp("redis"))]
    process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url)
    end = time.monotonic() + 10
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            assert process.poll() is None and time.monotonic() < end, "redis-server did not start"
            time.sleep(0.02)
    yield url
    process.terminate()
    process.wait()


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """The server, emptied; tests share two busy cores, so that 50 ms would fail now and then."""
    monkeypatch.setattr(remote, "TIMEOUT_S", 5.0)
    found = redis.Redis.from_url(server)
    found.flushall()
    yield found
    found.close()


def on(server: str, directory: Path | None = None, write: bool = True) -> Store:
    return configured(directory, redis=server, redis_write=write)


def test_a_result_reaches_another_host_as_json_text(server: str, client: redis.Redis, tmp_path: Path) -> None:
    on(server, tmp_path / "a").publish(decision())
    assert client.get(f"gems:{records.SCHEMA}:d/{KEY}").decode() == records.encode(decision())
    assert on(server, tmp_path / "b").decision(KEY) == decision()
    assert not (tmp_path / "b").exists()  # it is asked again, not copied


def test_nothing_is_sent_unless_asked(server: str, client: redis.Redis, tmp_path: Path) -> None:
    on(server, tmp_path / "a", write=False).publish(decision())
    assert client.dbsize() == 0


@pytest.mark.parametrize("value", [b"", b"{}", b"\x80\x04K\x01.", b"\xff\xfe", b"x" * (MAX_TEXT + 2), b"[" * 60_000])
def test_what_is_no_record_is_a_miss(server: str, client: redis.Redis, value: bytes) -> None:
    client.set(f"gems:{records.SCHEMA}:d/{KEY}", value)
    assert on(server).decision(KEY) is None


def test_a_value_of_another_type_is_a_miss(server: str, client: redis.Redis) -> None:
    client.lpush(f"gems:{records.SCHEMA}:d/{KEY}", "x")
    assert on(server).decision(KEY) is None


def test_a_huge_value_is_not_fetched(server: str, client: redis.Redis) -> None:
    client.set(f"gems:{records.SCHEMA}:d/{KEY}", b"x" * (32 << 20))
    sent = client.info("stats")["total_net_output_bytes"]
    assert on(server).decision(KEY) is None
    assert client.info("stats")["total_net_output_bytes"] - sent < 200_000


def test_a_server_that_is_not_there_is_asked_once_a_minute(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:  # accepts, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        opened = on(f"redis://:secret@127.0.0.1:{silent.getsockname()[1]}/0")
        began = time.monotonic()
        for n in range(100):
            assert opened.decision(about(n).key) is None
        assert time.monotonic() - began < 5 * remote.TIMEOUT_S + 2
        assert len(caplog.records) == 1 and "not asked for 60 s" in caplog.text and "secret" not in caplog.text
        later = time.monotonic() + remote.REST_S
        monkeypatch.setattr(remote.time, "monotonic", lambda: later)
        assert opened.decision(about(200).key) is None
    assert len(caplog.records) == 2


def test_hosts_tune_a_key_once(server: str, client: redis.Redis, tmp_path: Path) -> None:
    made = tmp_path / "made"

    def host(i: int) -> None:
        opened = on(server, tmp_path / f"host-{i}")

        def make() -> records.Decision:
            append(made, str(i))
            time.sleep(0.2)
            opened.publish(decision(host=str(i)))
            return opened.decision(KEY)

        found = flight.single(flight.guards(opened), KEY, lambda: opened.decision(KEY), make, 20.0)
        append(tmp_path / "winners", found.host)

    assert wait(children(4, host)) == [0] * 4
    winners = (tmp_path / "winners").read_text().split()
    assert len(made.read_text().split()) == 1 and len(winners) == 4 and set(winners) == set(made.read_text().split())
    assert not client.keys("gems:lock:*")


def test_a_lock_whose_owner_died_is_taken_over_at_once_on_its_machine_and_after_a_while_elsewhere(
    server: str, client: redis.Redis, tmp_path: Path
) -> None:
    def die(i: int) -> None:
        flight.single(flight.guards(on(server, tmp_path / "here")), KEY, lambda: None, lambda: (tmp_path / "held").touch() or time.sleep(60), 1.0)

    victim = children(1, die)
    wait_for(tmp_path / "held")
    os.kill(victim[0], signal.SIGKILL)
    wait(victim)
    (lock,) = client.keys("gems:lock:*")
    elsewhere = flight.guards(on(server, tmp_path / "elsewhere"))
    with pytest.raises(flight.WaitedTooLong):
        flight.single(elsewhere, KEY, lambda: None, lambda: "made", 0.1)
    client.pexpire(lock, 50)  # the 30 s are over
    assert flight.single(elsewhere, KEY, lambda: None, lambda: "made", 5.0) == "made"


def test_the_dead_of_ones_own_machine_are_known(server: str, client: redis.Redis, tmp_path: Path) -> None:
    opened = on(server, tmp_path / "here")
    assert flight.guards(opened)[0].take(KEY) is not None  # makes the directory
    lock = flight.guards(opened)[1]
    held = lock.take(KEY)
    # this process still has the lock on the server, and whoever asks has the lock of the machine
    again = lock.take(KEY)
    assert held is not None and again is not None
    held()
    assert client.keys("gems:lock:*")  # not the owner any more
    again()
    assert not client.keys("gems:lock:*")
