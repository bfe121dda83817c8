"""Ranks of a job end up with one set of decisions, or learn which operator and shape they differ in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_flight import children, wait
from test_records import FIELDS, decision
from void_device import bench, device_with, forget, load

from gems_runtime import device, distribute, flight, settings, store, tuner
from gems_runtime.errors import DeviceLost, RanksDisagree, UsageError
from gems_runtime.records import Decision, digest
from gems_runtime.store import Store

OTHER = {"kwargs": {"BLOCK": 128, "EVEN": True, "ACC": None}, "num_warps": 8}


def about(n: int, **changes: object) -> Decision:
    """A decision for the problem n."""
    fields = {**FIELDS, "problem": {"key": {"n": n}}}
    return decision(key=digest(fields), fields=fields, **changes)


def ranks(folder: Path, count: int, work: Callable[[int], None]) -> list[int]:
    """Run `work` on so many ranks of a gloo group; their exit codes."""

    def rank(i: int) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=i, world_size=count)
        try:
            work(i)
        finally:
            dist.destroy_process_group()

    return wait(children(count, rank))


def test_the_digest_follows_the_configurations_alone(tmp_path: Path) -> None:
    one, other = store.open(tmp_path / "a"), store.open(tmp_path / "b")
    for n in range(3):
        one.publish(about(n))
    for n in reversed(range(3)):
        other.publish(about(n, time=5.0, host="elsewhere"))
    assert one.digest() == other.digest() != store.open(None).digest()
    other.publish(about(1, config=OTHER))
    assert one.digest() != other.digest()


def test_eight_ranks_of_one_store_have_one_digest(tmp_path: Path) -> None:
    warmed = store.open(tmp_path / "shared")
    for n in range(5):
        warmed.publish(about(n))
    expected = warmed.digest()
    warmed.close()

    def work(i: int) -> None:
        opened = store.open(tmp_path / "shared")
        assert all(opened.decision(about(n).key) is not None for n in range(i % 5))  # each asks for others
        assert opened.sync() == 0 and opened.digest() == expected

    assert ranks(tmp_path, 8, work) == [0] * 8


def test_ranks_that_chose_differently_take_what_the_shared_store_says(tmp_path: Path) -> None:
    def work(i: int) -> None:
        opened = store.open(tmp_path / "shared")
        opened.publish(about(1, config=OTHER if i else decision().config))
        dist.barrier()
        opened.sync()
        (tmp_path / f"digest-{i}").write_text(opened.digest() + opened.decision(about(1).key).config["kwargs"].__repr__())

    assert ranks(tmp_path, 2, work) == [0, 0]
    assert (tmp_path / "digest-0").read_text() == (tmp_path / "digest-1").read_text()


def test_ranks_without_a_shared_store_take_the_majoritys_or_else_the_lowest_ranks(tmp_path: Path) -> None:
    def work(i: int) -> None:
        opened = store.open(None)
        told: list[int] = []
        Store.listeners.append(lambda: told.append(1))
        opened.publish(about(1, config=decision().config if i == 0 else OTHER))
        opened.publish(about(2, config={**OTHER, "num_warps": 1 << i}))
        assert opened.sync() == (1 if i == 0 else 0) + (1 if i else 0)
        assert opened.decision(about(1).key).config == OTHER
        assert opened.decision(about(2).key).config == {**OTHER, "num_warps": 1}
        assert told == [1]  # both kinds of rank changed something
        assert opened.sync() == 0 and told == [1]

    assert ranks(tmp_path, 3, work) == [0, 0, 0]


def test_ranks_of_which_one_has_no_decision_all_learn_the_operator_and_the_shape(tmp_path: Path) -> None:
    def work(i: int) -> None:
        opened = store.open(tmp_path / f"store-{i}")
        if i == 0:
            opened.publish(about(7))
        assert (opened.decision(about(7).key) is None) == (i == 1)
        with pytest.raises(RanksDisagree, match=r"m\.k\(n=7\) \[\w+\] is tuned for ranks \[0\] and not for ranks \[1\]"):
            opened.sync()

    assert ranks(tmp_path, 2, work) == [0, 0]


def test_a_group_of_gpus_alone_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_backend", lambda group: "nccl")
    with pytest.raises(UsageError, match="gloo"):
        store.open(None).sync()


def test_a_rank_waits_for_no_other_unless_it_is_told_that_it_may(tmp_path: Path) -> None:
    lock = flight.FileLock(tmp_path / "locks")
    single = lambda: flight.single([lock], "k", lambda: None, lambda: "made", 0.1)

    def work(i: int) -> None:
        assert single() == "made"  # the parent has the lock
        with flight.waiting(), pytest.raises(flight.WaitedTooLong):
            single()

    release = lock.take("k")
    assert ranks(tmp_path, 2, work) == [0, 0]
    with pytest.raises(flight.WaitedTooLong):
        single()
    with flight.no_wait():
        assert single() == "made"
    release()


def tuned_together(tmp_path: Path, i: int, kernel: object, **effects: object) -> dict[str, object]:
    """What rank i gets for a call that all make; each has a store, and a benchmark function, of its own."""
    forget()
    bench.reset(*(3.0 - i for _ in range(3)))
    with settings.override(cache_dir=tmp_path / f"store-{i}"), device_with(**effects), distribute():
        config = tuner.prime(kernel, (torch.zeros(1024), torch.zeros(1024), 1024), {}, (8,))
        store.current().close()
    return config.kwargs


def test_ranks_that_tune_together_time_a_share_each_and_agree(tmp_path: Path, triton_cache: None) -> None:
    kernel = load(tmp_path).kernel

    def work(i: int) -> None:
        assert tuned_together(tmp_path, i, kernel) == {"BLOCK": 256}  # the last rank's share is the fastest
        assert bench.count == 1
        kernel.cache.clear()
        assert tuned_together(tmp_path, i, kernel) == {"BLOCK": 256} and bench.count == 0

    assert ranks(tmp_path, 3, work) == [0, 0, 0]
    kept = [store.open(tmp_path / f"store-{i}") for i in range(3)]
    assert len({opened.digest() for opened in kept}) == 1 and all(len(list(opened.records())) == 4 for opened in kept)


def test_what_one_rank_has_decided_or_timed_serves_the_others(tmp_path: Path, triton_cache: None) -> None:
    kernel = load(tmp_path).kernel

    def work(i: int) -> None:
        if i == 1:
            forget()
            bench.reset(3.0, 1.0, 2.0)
            with settings.override(cache_dir=tmp_path / "store-1"), device_with():
                tuner.prime(kernel, (torch.zeros(1024), torch.zeros(1024), 1024), {}, (8,))
                store.current().close()
            kernel.cache.clear()
        assert tuned_together(tmp_path, i, kernel) == {"BLOCK": 128} and bench.count == 0

    assert ranks(tmp_path, 2, work) == [0, 0]


def test_ranks_that_make_different_calls_all_raise(tmp_path: Path, triton_cache: None) -> None:
    kernels = [load(tmp_path).kernel for _ in range(2)]

    def work(i: int) -> None:
        with pytest.raises(RanksDisagree, match="different calls"):
            tuned_together(tmp_path, i, kernels[i])

    assert ranks(tmp_path, 2, work) == [0, 0]


def test_an_error_of_one_rank_is_raised_by_all(tmp_path: Path, triton_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = load(tmp_path).kernel

    def broken(x: torch.Tensor, y: torch.Tensor, n: int, block: int) -> None:
        monkeypatch.setattr(device, "works", lambda: False)
        raise RuntimeError("an illegal memory access was encountered")

    def work(i: int) -> None:
        effects = {"effect": broken} if i == 1 else {}
        with pytest.raises(DeviceLost if i == 1 else RanksDisagree, match="broke the device"):
            tuned_together(tmp_path, i, kernel, **effects)

    assert ranks(tmp_path, 2, work) == [0, 0]


def test_ranks_of_other_devices_have_shares_and_decisions_of_their_own(
    tmp_path: Path, triton_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = load(tmp_path).kernel

    def work(i: int) -> None:
        name = "NVIDIA H100" if i == 0 else "NVIDIA H200"
        monkeypatch.setattr(device, "identity", lambda: device.DeviceIdentity("nvidia", name, "cuda:90", 132, 1, 1))
        tuned_together(tmp_path, i, kernel)
        assert bench.count == {0: 3, 1: 2, 2: 1}[i]

    assert ranks(tmp_path, 3, work) == [0, 0, 0]
    digests = [store.open(tmp_path / f"store-{i}").digest() for i in range(3)]
    assert digests[0] != digests[1] == digests[2]
