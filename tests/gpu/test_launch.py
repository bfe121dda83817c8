"""What only a real driver shows of a launch: graphs, streams, clusters, refused launches, descriptors that move data."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from gems_runtime import LibEntry, native_status, settings, trial
from gems_runtime import entry as entry_module

pytestmark = pytest.mark.gpu


@triton.jit
def add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(x_ptr + at, at < n) + tl.load(y_ptr + at, at < n)
    tl.store(out_ptr + at, total, at < n)


@triton.jit
def cluster_size(out_ptr, BLOCK: tl.constexpr):
    size = tl.inline_asm_elementwise("mov.u32 $0, %cluster_nctaid.x; // $1", "=r,r", [tl.arange(0, BLOCK)], tl.int32, True, 1)
    tl.store(out_ptr + tl.arange(0, BLOCK), size)


@triton.jit
def last_program(out_ptr, LAST: tl.constexpr):
    if tl.program_id(0) + tl.program_id(1) == LAST:
        tl.store(out_ptr, 1)


@triton.jit
def copy_tile(source, target, row, BLOCK: tl.constexpr):
    target.store([row, 0], source.load([row, 0]))


@pytest.fixture(autouse=True, params=["N", "P"])
def tier(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test once on each fast tier."""
    native = settings.Native.ON if request.param == "N" else settings.Native.OFF
    with settings.override(native=native):
        if request.param == "N":
            assert native_status().serves, native_status().reason
        yield request.param


def ones(n: int = 4096) -> torch.Tensor:
    return torch.ones(n, device="cuda")


def warm(entry: LibEntry, grid: object, *args: object, **kwargs: object) -> None:
    for _ in range(3):
        entry[grid](*args, **kwargs)
    torch.cuda.synchronize()


def served(entry: LibEntry, tier: str) -> int:
    return entry.stats()[tier]


def test_a_captured_graph_replays_what_was_captured(tier: str) -> None:
    entry, x, y, out = LibEntry(add), ones(), ones(), torch.zeros(4096, device="cuda")
    grid = lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)
    warm(entry, grid, x, y, out, 4096, BLOCK=512)
    before, graph = served(entry, tier), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        entry[grid](x, y, out, 4096, BLOCK=512)
        entry[grid](out, out, out, 4096, BLOCK=512)
    assert served(entry, tier) == before + 2
    for value in (3.0, 5.0):
        x.fill_(value)
        out.zero_()
        graph.replay()
        assert out.eq(2 * (value + 1)).all()


def test_a_kernel_that_is_cold_inside_a_capture_is_captured_right() -> None:
    entry, x, out = LibEntry(add), ones(), torch.zeros(4096, device="cuda")
    # Compiled and loaded, because loading a module is no part of a graph; but no entry knows it.
    add[(8,)](x, x, out, 4096, BLOCK=512)
    out.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(3):
            entry[(8,)](x, x, out, 4096, BLOCK=512)
    graph.replay()
    assert out.eq(2).all()


def test_a_launch_goes_to_the_current_stream(tier: str) -> None:
    entry, x, out = LibEntry(add), ones(), torch.zeros(4096, device="cuda")
    warm(entry, (8,), x, x, out, 4096, BLOCK=512)
    out.zero_()
    # Loading a kernel waits for all streams, so everything below is loaded now.
    torch.cuda._sleep(1)
    assert out.sum().item() == 0
    before, side = served(entry, tier), torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        entry[(8,)](x, x, out, 4096, BLOCK=512)
    # The side stream still sleeps, and nothing of the launch is on this one.
    assert out.sum().item() == 0 and not side.query()
    side.synchronize()
    assert out.eq(2).all() and served(entry, tier) == before + 1


def test_threads_launch_on_their_own_streams() -> None:
    entry, wrong = LibEntry(add), []
    warm(entry, (8,), ones(), ones(), ones(), 4096, BLOCK=512)

    def work(value: float) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            x, out = torch.full((4096,), value, device="cuda"), torch.zeros(4096, device="cuda")
            for _ in range(300):
                entry[(8,)](x, out, out, 4096, BLOCK=512)
            if not out.eq(300 * value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_clusters_of_several_sizes_by_turns(tier: str) -> None:
    entry, out = LibEntry(cluster_size), torch.zeros(256, dtype=torch.int32, device="cuda")
    for size in (1, 2, 4, 1, 2, 4, 8, 1, 8, 16, 2, 16):
        out.zero_()
        entry[(3,)](out, 256, num_ctas=size)
        assert out.eq(size).all(), size
    assert served(entry, tier) >= 6


def test_a_refused_launch_raises_as_stock_tritons_does_and_the_next_one_works() -> None:
    entry, x, out = LibEntry(add), ones(), torch.zeros(4096, device="cuda")
    warm(entry, (8,), x, x, out, 4096, BLOCK=512)
    for grid in ((1, 65536), (1, 1, 70000), lambda meta: (1, 65536)):
        texts = []
        for kernel in (add, entry):
            with pytest.raises(RuntimeError) as caught:
                kernel[grid](x, x, out, 4096, BLOCK=512)
            texts.append(str(caught.value))
        assert texts[0] == texts[1]
    out.zero_()
    entry[(8,)](x, x, out, 4096, BLOCK=512)
    assert out.eq(2).all()


def test_memory_of_the_host_is_refused_or_reached_as_by_stock_triton() -> None:
    entry, x = LibEntry(add), ones()
    warm(entry, (8,), x, x, x.clone(), 4096, BLOCK=512)
    texts = []
    for kernel in (add, entry):
        with pytest.raises(ValueError, match="cpu tensor") as caught:
            kernel[(8,)](x, torch.ones(4096), x, 4096, BLOCK=512)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    pinned, out = torch.full((4096,), 6.0).pin_memory(), torch.zeros(4096, device="cuda")
    entry[(8,)](x, pinned, out, 4096, BLOCK=512)
    assert out.eq(7).all()


def test_more_programs_than_an_int32_counts_all_run() -> None:
    """Triton's own launcher multiplies the grid in 32 bits and launches nothing."""
    if native_status().serves is False:
        pytest.skip("Triton's own launcher serves the Python path, with its 32 bits")
    x, y = 2**15, 65535
    entry, out = LibEntry(last_program), torch.zeros(1, dtype=torch.int32, device="cuda")
    warm(entry, (1,), out, x + y - 1)
    entry[(x + 1, y)](out, x + y - 1)
    assert out.item() == 1


def test_descriptors_move_what_they_describe_now() -> None:
    entry = LibEntry(copy_tile)
    source, target = torch.arange(64 * 64, device="cuda", dtype=torch.float32).view(64, 64), torch.zeros(64, 64, device="cuda")
    described = [TensorDescriptor.from_tensor(t, [16, 64]) for t in (source, target)]
    for row in (0, 16, 32, 48):
        entry[(1,)](*described, row, BLOCK=16)
    assert target.equal(source)
    # The same descriptor, of other memory: a remembered map would read what it was made for.
    described[0].base = -source
    for row in (0, 16, 32, 48):
        entry[(1,)](*described, row, BLOCK=16)
    assert target.equal(-source)


def test_a_collected_entry_takes_no_other_entrys_kernel_along() -> None:
    first, second, x, out = LibEntry(add), LibEntry(add), ones(), torch.zeros(4096, device="cuda")
    for entry in (first, second):
        warm(entry, (8,), x, x, out, 4096, BLOCK=512)
    add.device_caches.clear()
    del first
    gc.collect()
    out.zero_()
    second[(8,)](x, x, out, 4096, BLOCK=512)
    assert out.eq(2).all()


def test_each_device_runs_its_own_kernel() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    entry = LibEntry(add)
    for index in (0, 1, 0, 1):
        with torch.cuda.device(index):
            x, out = ones(), torch.zeros(4096, device="cuda")
            entry[(8,)](x, x, out, 4096, BLOCK=512)
            assert out.device.index == index and out.eq(2).all()


def test_the_trial_sees_what_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    arrived = trial._arrived
    monkeypatch.setattr(trial, "_fault", None)
    monkeypatch.setattr(trial, "_arrived", lambda out: seen.append(arrived(out)) or seen[-1])
    entry, x = LibEntry(add), ones()
    entry[(4,)](x, x, torch.empty_like(x), 4096, BLOCK=1024)
    assert trial.fault() == "" and len(seen) == 1 + len(trial_paths())
    rows = [seen[0][i : i + 10] for i in range(0, len(seen[0]), 10)]
    assert [row[8] for row in rows] == list(range(12))
    assert all(row[1:8] == [17, 1, 32, -(2**40), 8 - 2**63, 0x40200000, 1] and row[9] == 2 for row in rows)


def trial_paths() -> list[str]:
    return ["Python", "C"] if settings.current().native is not settings.Native.OFF else ["Python"]


def test_a_path_that_passes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
    monkeypatch.setattr(trial, "_fault", None)
    monkeypatch.setattr(trial, "_NUMBERS", (*trial._NUMBERS[:-1], False))
    made = entry_module._fast_paths

    def wrong(kernel: object, grid: object, args: tuple[object, ...]) -> dict[str, object]:
        def flipped(launch: object) -> object:
            return lambda grid, *args: launch(grid, *args[:-2], True, args[-1])

        return {name: flipped(launch) for name, launch in made(kernel, grid, args).items()}

    monkeypatch.setattr(entry_module, "_fast_paths", wrong)
    entry, x = LibEntry(add), ones()
    for _ in range(2):
        entry[(4,)](x, x, torch.empty_like(x), 4096, BLOCK=1024)
    assert "Python passes" in (trial.fault() or "") and entry.stats()["S"] == 2
