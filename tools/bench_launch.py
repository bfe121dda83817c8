"""tools/bench launch: host time of one warm launch, beside a C loop of the driver's own call and stock Triton.

Without a GPU the launches go to a recording stand-in for the driver; what is left is the time above the driver. Prints
the bounds that the figures are held to, and ends with 1 if one does not hold.

Medians on a GPU. Without one the least of many bursts: whatever else the machine does only adds to a burst.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import triton
from triton.runtime.jit import JITFunction

from gems_runtime import LibEntry, native_status, settings
from tools import fake_cuda, measure, report
from tools.launch_cases import BURST, EIGHT, FOUR, MOST, TUNED, Case, cases, wide
from tools.launch_peers import PEERS, raw_burst, run_burst

HAS_GPU = torch.cuda.is_available()
COLUMNS = (
    report.Column("launch", "case"),
    report.Column("raw us", "raw_us", ".2f"),
    report.Column("Triton", "stock_us", ".2f"),
    report.Column("CompiledKernel.run", "run_us", ".2f"),
    report.Column("torch.compile's", "torch_us", ".2f"),
    report.Column("tvm-ffi, no launch", "tvm_us", ".2f"),
    report.Column("cuda-bindings", "cuda_us", ".2f"),
    report.Column("LibEntry, Python", "python_us", ".2f"),
    report.Column("tier", "python_tier"),
    report.Column("above raw", "python_above_raw_us", ".2f"),
    report.Column("x raw", "python_over_raw", ".2f"),
    report.Column("x Triton", "python_over_stock", ".2f"),
    report.Column("LibEntry, native", "native_us", ".2f"),
    report.Column("tier", "native_tier"),
    report.Column("above raw", "native_above_raw_us", ".2f"),
    report.Column("x raw", "native_over_raw", ".2f"),
    report.Column("x Triton", "native_over_stock", ".3f"),
)
MISS_COLUMNS = (
    report.Column("a miss", "case"),
    report.Column("ms", "ms", ".2f"),
    report.Column("of it in Triton", "inside_ms", ".2f"),
    report.Column("x Triton", "over_stock", ".3f"),
)
BOUND_COLUMNS = (
    report.Column("bound", "what"),
    report.Column("at most", "bound", ".2f"),
    report.Column("measured", "found", ".3f"),
    report.Column("holds", "holds"),
)
NEW, KEPT = "new to Triton's cache on disk", "compiled before"
# Case, field, bound.
_ON_GPU = (
    (FOUR, "native_over_raw", 1.35),
    (TUNED, "native_over_raw", 1.7),
    (FOUR, "python_over_raw", 2.2),
)
_WITHOUT_GPU = (
    (EIGHT, "native_above_raw_us", 0.5),
    (EIGHT, "native_over_stock", 0.05),
    (MOST, "native_above_raw_us", 1.5),
    (EIGHT, "python_over_stock", 0.25),
    (NEW, "over_stock", 1.06),
)


def _synchronize() -> None:
    if HAS_GPU:
        torch.cuda.synchronize()


def _timed(burst: Callable[[], object], own_clock: bool) -> float:
    """Microseconds per launch of one burst, the device idle before it."""
    _synchronize()
    start = time.perf_counter()
    own = burst()
    spent = (time.perf_counter() - start) / BURST * 1e6
    _synchronize()
    return own if own_clock else spent


def _middle(times: list[float]) -> float:
    return statistics.median(times) if HAS_GPU else min(times)


def measure_case(case: Case, rounds: int) -> dict[str, object]:
    """Interleaved bursts of every path; ends the benchmark if ours launched another kernel than stock Triton."""
    bursts: dict[str, Callable[[], object] | str | None] = {"stock": case.burst(case.kernel)}
    compiled, entries = bursts["stock"](), _entries(case)
    for name, entry in entries.items():
        bursts[name] = case.burst(entry)
        if bursts[name]().hash != compiled.hash:
            raise SystemExit(f"{case.name}: LibEntry launched another kernel than stock Triton")
    bursts |= {"run": run_burst(case, compiled), "raw": raw_burst(case, compiled)}
    bursts |= {name: make(case, compiled) for name, make in PEERS.items()}
    served = {name: entry.stats() for name, entry in entries.items()}
    times = _interleaved({name: burst for name, burst in bursts.items() if callable(burst)}, rounds)
    row: dict[str, object] = {"case": case.name, "missing": {name: b for name, b in bursts.items() if isinstance(b, str)}}
    for name in ("stock", "run", "raw", *PEERS, "python", "native"):
        row[f"{name}_us"] = _middle(times[name]) if name in times else None
        row[f"{name}_min_us"] = min(times[name]) if name in times else None
    for name in ("python", "native"):
        row |= _ratios(row, name)
        row[f"{name}_tier"] = _tier_of(served[name], entries[name].stats()) if name in entries else None
    return row


def _interleaved(bursts: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in bursts}
    order = list(bursts)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name].append(_timed(bursts[name], own_clock=name == "raw"))
    return times


def _entries(case: Case) -> dict[str, LibEntry]:
    """One entry per path over the same kernel, each launched; the native one only where that tier serves."""
    with settings.override(native=settings.Native.OFF):
        entries = {"python": LibEntry(case.kernel)}
        case.burst(entries["python"])()
    if native_status().serves:
        entries["native"] = LibEntry(case.kernel)
    return entries


def _tier_of(before: dict[str, int], after: dict[str, int]) -> str:
    """The tiers that served between two counts."""
    return "".join(name for name in after if name != "entries" and after[name] != before[name])


def _ratios(row: dict[str, object], name: str) -> dict[str, float | None]:
    ours, raw, stock = row[f"{name}_us"], row["raw_us"], row["stock_us"]
    # Beside a stand-in that does nothing, a ratio to the driver says nothing.
    over_raw = ours / raw if ours and raw and HAS_GPU else None
    return {f"{name}_over_raw": over_raw, f"{name}_above_raw_us": ours - raw if ours and raw else None, f"{name}_over_stock": ours / stock if ours else None}


def measure_misses(folder: Path, count: int) -> list[dict[str, object]]:
    """Calls of specialisations that no entry has: whole, and the part that stock Triton takes of the same call.

    The first makes the launch function too and is left out; so are the first of the process, which load compilers.
    """
    case, rows = wide(folder, "misses", 3, 3, 1), []
    jit, inside = case.kernel, []
    jit.run = _clocked(jit, inside)
    for name in (NEW, KEPT):
        jit.device_caches.clear()
        entry, whole = LibEntry(jit), []
        for value in range(count + 3):
            start = time.perf_counter()
            entry[(1,)](*case.args, C0=value + 16)
            whole.append(time.perf_counter() - start)
        parts = inside[-count:]
        ratio = statistics.median(w / i for w, i in zip(whole[3:], parts, strict=True))
        rows.append({"case": name, "ms": _ms(whole[3:]), "inside_ms": _ms(parts), "over_stock": ratio})
    return rows


def _clocked(jit: JITFunction, times: list[float]) -> Callable[..., object]:
    run = jit.run

    def clocked(*args: object, **kwargs: object) -> object:
        start = time.perf_counter()
        result = run(*args, **kwargs)
        times.append(time.perf_counter() - start)
        return result

    return clocked


def _ms(times: list[float]) -> float:
    return statistics.median(times) * 1e3


def bounds(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Each bound with what was measured; a figure that is missing does not hold."""
    found = {row["case"]: row for row in rows}
    out = []
    for case, what, bound in _ON_GPU if HAS_GPU else _WITHOUT_GPU:
        figure = found[case][what]
        out.append({"what": f"{case}: {what}", "bound": bound, "found": figure, "holds": "yes" if figure is not None and figure <= bound else "NO"})
    return out


@contextlib.contextmanager
def _silent_driver() -> Iterator[None]:
    with fake_cuda.active() as fake, fake.unrecorded():
        yield


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench launch", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--rounds", type=int, default=60 if HAS_GPU else 300, help="interleaved rounds (default %(default)s)")
    parser.add_argument("--misses", type=int, default=30, help="specialisations for the cost of a miss (default 30)")
    options = parser.parse_args(argv)
    if not HAS_GPU:
        print("No GPU: launches go to a stand-in for the driver, so these are times above the driver.")
    random.seed(0)
    driver = contextlib.nullcontext() if HAS_GPU else _silent_driver()
    with tempfile.TemporaryDirectory() as folder, driver, settings.override(store=False), triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(Path(folder) / "triton")
        misses = measure_misses(Path(folder), options.misses)
        gc.disable()
        rows = [measure_case(case, options.rounds) for case in _told(cases(Path(folder)))]
        gc.enable()
    held = bounds(rows + misses)
    report.print_table(COLUMNS, rows)
    for name, reason in {pair for row in rows for pair in row["missing"].items()}:
        print(f"{name}: {reason}")
    report.print_table(MISS_COLUMNS, misses)
    report.print_table(BOUND_COLUMNS, held)
    report.finish(options.json, "launch", rows, {"burst": BURST, "rounds": options.rounds, "misses": misses, "bounds": held})
    return 0 if all(bound["holds"] == "yes" for bound in held) else 1


def _told(found: Iterator[Case]) -> Iterator[Case]:
    for case in found:
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        yield case


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
