"""Ranks of a job that tune together: each times a share of a kernel's candidates, and all get the same decision.

Every rank makes the same calls in the same order inside `distribute`: three exchanges are made for each call that is not
decided in the process. Ranks whose devices differ make shares, and decisions, of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gems_runtime import device, records, stats, store
from gems_runtime.candidates import LAUNCH_ERRORS
from gems_runtime.errors import GemsError, RanksDisagree
from gems_runtime.problem import Problem
from gems_runtime.records import Decision, Json, digest
from gems_runtime.store.ranks import gathered, require_cpu

if TYPE_CHECKING:
    import torch.distributed as dist
    import triton


@dataclass(frozen=True)
class Team:
    """The ranks of a group."""

    group: dist.ProcessGroup | None


_team: Team | None = None


@contextlib.contextmanager
def distribute(group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """In the `with` block the ranks of a gloo group (None: of the job) tune together; every rank must make the same calls."""
    global _team
    require_cpu(group)
    before, _team = _team, Team(group)
    try:
        yield
    finally:
        _team = before


def team() -> Team | None:
    """Those to tune with, if there are any."""
    return _team


def tune(problem: Problem, team: Team) -> triton.Config:
    """The configuration that all ranks with such a device use from now on.

    Raises, on every rank, RanksDisagree if they have not made the same call, and what kept one of them from doing its part.
    """
    shared = _Shared(problem, team)
    decision = shared.agreed() or shared.made()
    return problem.live(decision) or problem.candidates[0]


class _Shared:
    """One problem among the ranks."""

    def __init__(self, problem: Problem, team: Team) -> None:
        self._problem, self._group = problem, team.group
        self._store = store.current()
        found = self._problem.stored()
        mine = {
            "kernel": problem.kernel,
            "key": problem.key,
            "device": digest(device.identity().fields()),
            "decision": records.encode(problem.decision) if found is not None else None,
            "measured": [] if found is not None else [records.encode(m) for m in problem.measured().values()],
        }
        self._rows = gathered(mine, self._group)
        self._require_one_call()
        self._peers = [rank for rank, row in enumerate(self._rows) if row["device"] == mine["device"]]
        self._place = self._peers.index(_rank(self._group))

    def _require_one_call(self) -> None:
        """Every rank sees the same rows, and so raises the same."""
        kernels, devices = ({row[part] for row in self._rows} for part in ("kernel", "device"))
        keys = {(row["device"], row["key"]) for row in self._rows}
        if len(kernels) > 1 or len(keys) > len(devices):
            each = ", ".join(sorted(kernels))
            raise RanksDisagree(f"ranks that tune together made different calls ({each}); each must make the same, in one order")

    def agreed(self) -> Decision | None:
        """What a peer has decided already; None if the ranks of some device have to time."""
        decided = {row["device"]: row["decision"] for row in reversed(self._rows) if row["decision"] is not None}
        if len(decided) < len({row["device"] for row in self._rows}):
            return None
        decision = records.decode(decided[self._rows[_rank(self._group)]["device"]])
        self._problem.keep(decision, (), "")
        return decision

    def made(self) -> Decision:
        """Time a share, learn the others', and decide."""
        stats.count("tune")
        for row in self._of_peers(self._rows):
            self._learn(row["measured"])
        known = self._problem.measured()
        places = [i for i in range(len(self._problem.contenders)) if i not in known]
        share = places[self._place :: len(self._peers)]
        rows = self._all(lambda: self._timed(share))
        for row in rows:
            self._learn(row["measured"])
        is_leader = self._place == 0
        settled = self._all(lambda: self._settled() if is_leader else {})[0]
        disturbances = [row["disturbance"] for row in (*rows, settled)]
        decision = records.decode(settled["decision"])
        names = [f"m/{key}" for key in decision.soft["measurements"]]
        self._problem.keep(decision, names, next(filter(None, disturbances), ""))
        return decision

    def _timed(self, share: list[int]) -> dict[str, Json]:
        disturbance = self._problem.time_some(share) if share else ""
        found = self._problem.measured()
        return {"measured": [records.encode(found[i]) for i in share if i in found], "disturbance": disturbance}

    def _settled(self) -> dict[str, Json]:
        decision, disturbance = self._problem.settled()
        return {"decision": records.encode(decision), "disturbance": disturbance}

    def _learn(self, texts: list[str]) -> None:
        for text in texts:
            record = records.decode(text)
            if self._store.measurement(record.key) is None:
                self._store.publish(record)

    def _all(self, part: Callable[[], dict[str, Json]]) -> list[dict[str, Json]]:
        """What the peers found, each by its part. An error of one is raised by all: nobody is left waiting."""
        mine, failure = {}, None
        try:
            mine = part()
        except (GemsError, *LAUNCH_ERRORS) as error:
            failure = error
        rows = gathered({"error": failure and f"{type(failure).__name__}: {failure}"[:500], **mine}, self._group)
        if failure is not None:
            raise failure
        for rank, row in enumerate(rows):
            if row["error"]:
                raise RanksDisagree(f"rank {rank} could not tune {self._problem.kernel}: {row['error']}")
        return self._of_peers(rows)

    def _of_peers(self, rows: list[dict[str, Json]]) -> list[dict[str, Json]]:
        return [rows[rank] for rank in self._peers]


def _rank(group: dist.ProcessGroup | None) -> int:
    import torch.distributed as dist

    return dist.get_rank(group)
