"""The store with many entries and many processes: the rows of tools/bench store that need no GPU."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gems_runtime import store
from gems_runtime.records import Decision, digest
from gems_runtime.store import bundle
from tools.figures import Row, median, python

ENTRIES, MANY_ENTRIES = 10_000, 100_000
PROCESSES, RESULTS, COLD_PROCESSES = 16, 32, 64
PACKAGED, PACKAGED_KERNELS = 5000, 50
RUNS = 5

READS = """
import json, statistics, sys, time
from pathlib import Path
from gems_runtime import store
keys = json.loads(Path(sys.argv[2]).read_text())
started = time.perf_counter()
opened = store.open(Path(sys.argv[1]))
first = opened.decision(keys[0])
assert first is not None, "the entries are not on disk"
first_s = time.perf_counter() - started
later = []
for key in keys[1:1001]:
    started = time.perf_counter()
    found = opened.decision(key)
    later.append(time.perf_counter() - started)
    assert found.key == key
print(json.dumps({"first": first_s, "later": statistics.median(later), "found": first.key == keys[0]}))
"""

PACKAGE = """
import json, sys, time
from pathlib import Path
from gems_runtime import records
from gems_runtime.store.bundle import Bundle
started = time.perf_counter()
text = Bundle(Path(sys.argv[1])).get("d/" + sys.argv[2])
found = records.decode(text)
print(json.dumps({"seconds": time.perf_counter() - started, "found": found.key == sys.argv[2]}))
"""

# A light process that forks many: what is measured is the store, not the start of Python.
FORKS = """
import json, os, sys, time
from pathlib import Path
from gems_runtime import flight, store
from gems_runtime.records import Decision, digest

def together(count, work):
    wait, go = os.pipe()
    pids = []
    for i in range(count):
        pids.append(os.fork())
        if pids[-1] == 0:
            code = 1
            try:
                os.close(go)
                os.read(wait, 1)  # all begin when the parent closes its end
                work(i)
                code = 0
            finally:
                os._exit(code)
    started = time.perf_counter()
    os.close(go)
    failed = sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in pids)
    return time.perf_counter() - started, failed

def decision(i, host=""):
    config = {"kwargs": {"BLOCK": 128}, "num_warps": 8}
    fields = {"problem": {"key": {"M": i}}, "kernel": {"source": "0" * 1200}, "device": {"name": "any"}}
    return Decision(digest(fields), "bench.kernel", config, fields, [[config, 10.0]], {"ok": 1}, host=host)

folder = Path(sys.argv[1])
"""

WRITES = FORKS + """
def work(i):
    opened = store.open(folder)
    for n in range(results):
        opened.publish(decision(i * results + n))

processes, results = int(sys.argv[2]), int(sys.argv[3])
seconds, failed = together(processes, work)
kept = sum(1 for _ in store.open(folder).records())
print(json.dumps({"seconds": seconds, "complete": failed == 0 and kept == processes * results}))
"""

COLD = FORKS + """
BENCHMARK_S = 0.5

def work(i):
    opened = store.open(folder)
    key = decision(0).key
    def make():
        (folder.parent / f"made-{folder.name}-{i}").touch()
        time.sleep(BENCHMARK_S)
        opened.publish(decision(0, str(i)))
        return opened.decision(key)
    found = flight.single(flight.guards(opened), key, lambda: opened.decision(key), make, 60.0)
    (folder.parent / f"won-{folder.name}-{found.host}").touch()

seconds, failed = together(int(sys.argv[2]), work)
count = lambda what: len(list(folder.parent.glob(f"{what}-{folder.name}-*")))
print(json.dumps({"over": seconds - BENCHMARK_S, "made": count("made"), "winners": count("won"), "errors": failed}))
"""


def decision(i: int) -> Decision:
    """An entry of the size that a tuned matrix product has."""
    config = {"kwargs": {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "GROUP": 8}, "num_warps": 8, "num_stages": 3}
    problem = {"key": {"M": i, "N": 4096, "K": 4096}, "arguments": {}, "constants": {}}
    fields = {"problem": problem, "kernel": {"source": "0" * 1200}, "device": {"name": "any", "arch": "cuda:90"}}
    top = [[config, 10.0 + rank] for rank in range(5)]
    return Decision(digest(fields), "bench.kernel", config, fields, top, {"ok": 5})


def reading(folder: Path) -> Iterator[Row]:
    """Open + first hit, and later hits, in new processes."""
    print(f"-- writing {ENTRIES} entries", flush=True)
    filled, keys = store.open(folder / "store"), []
    for i in range(ENTRIES):
        record = decision(i)
        filled.publish(record)
        keys.append(record.key)
    filled.close()
    (folder / "keys.json").write_text(json.dumps(keys[::-1]))
    runs = [python(READS, str(folder / "store"), str(folder / "keys.json")) for _ in range(RUNS)]
    found = all(run["found"] for run in runs)
    yield Row(f"open and first hit, {ENTRIES} entries", median(runs, "first") * 1e3, "ms", 10, found)
    yield Row(f"a hit on disk, {ENTRIES} entries", median(runs, "later") * 1e6, "us", 60, found)


def packaged(folder: Path) -> Iterator[Row]:
    """A bundle as a package brings it: verified whole, and one kernel of it read, in new processes."""
    held = [replace(decision(i), kernel=f"bench.kernel{i % PACKAGED_KERNELS}") for i in range(PACKAGED)]
    bundle.write(folder / "packaged.gemsx", held)
    runs = [python(PACKAGE, str(folder / "packaged.gemsx"), held[i].key) for i in range(RUNS)]
    found = all(run["found"] for run in runs)
    yield Row(f"open a bundle of {PACKAGED} entries and read one", median(runs, "seconds") * 1e3, "ms", 15, found)


def together(folder: Path) -> Iterator[Row]:
    """Many processes that publish at once, and many that find the same key cold."""
    runs = [python(WRITES, str(folder / f"writes{n}"), str(PROCESSES), str(RESULTS)) for n in range(RUNS)]
    complete = all(run["complete"] for run in runs)
    yield Row(f"{PROCESSES} processes publish {RESULTS} results each", median(runs, "seconds"), "s", 0.5, complete)
    runs = [python(COLD, str(folder / f"cold{n}"), str(COLD_PROCESSES)) for n in range(RUNS)]
    correct = all(run["winners"] == 1 and run["errors"] == 0 for run in runs)
    yield Row(f"{COLD_PROCESSES} processes cold on one key: benchmarks", max(run["made"] for run in runs), "", 1, correct)
    yield Row("the last of them has its answer after the benchmark by", median(runs, "over") * 1e3, "ms", None, correct)


def many(folder: Path) -> Iterator[Row]:
    """Nothing is evicted: as many come out as went in."""
    print(f"-- writing {MANY_ENTRIES} entries", flush=True)
    opened = store.open(folder / "many")
    started = time.perf_counter()
    opened.keep(map(decision, range(MANY_ENTRIES)))
    written = time.perf_counter()
    count = sum(1 for _ in store.open(folder / "many").records())
    read = time.perf_counter()
    yield Row(f"{MANY_ENTRIES} entries in", written - started, "s", None, count == MANY_ENTRIES)
    yield Row(f"{MANY_ENTRIES} entries out", read - written, "s", None, count == MANY_ENTRIES)
