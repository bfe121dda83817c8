"""Making the ranks of a job use the same decisions: one digest to compare by eye, and an exchange that settles differences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gems_runtime import records
from gems_runtime.errors import RanksDisagree, UsageError
from gems_runtime.records import Decision, Json, canonical

if TYPE_CHECKING:
    import torch.distributed as dist

    from gems_runtime.store.stack import Store


def digest(held: Iterable[Decision]) -> str:
    """One text for a set of decisions: equal where the same problems have the same configurations."""
    return records.digest(sorted([d.key, chosen(d)] for d in held))


def chosen(decision: Decision) -> str:
    """Identity of the configuration."""
    return records.digest(decision.config)


def sync(store: Store, group: dist.ProcessGroup | None) -> int:
    """Have every rank of a gloo group use the same decisions, and give back how many are new to this rank.

    What the ranks have asked for is read anew from the layers, and compared. Where two configurations remain, the one
    of most ranks is taken, the lowest rank's among equals. Every rank must call. Raises RanksDisagree, on every rank,
    if a problem has a decision on some of the ranks that asked for it and none on the others.
    """
    require_cpu(group)
    # the last word of every rank is on disk before anyone reads; a barrier, but on the CPU whatever the group's devices
    gathered(None, group)
    before, missed = store.in_use()
    store.forget()
    held, _ = store.in_use()
    # one that was found by another rank since
    found = {key: decision for key in missed if (decision := store.decision(key)) is not None}
    held.update(found)
    rows = gathered({"held": {key: chosen(d) for key, d in held.items()}, "missed": sorted(missed - held.keys())}, group)
    _require_hits(rows, held, group)
    for key, text in _settled(rows, held, group).items():
        store.adopt(records.decode(text))
    after, _ = store.in_use()
    return len(found) + sum(chosen(after[key]) != chosen(decision) for key, decision in before.items())


def require_cpu(group: dist.ProcessGroup | None) -> None:
    """Raise UsageError for a group that cannot carry bytes of the host."""
    import torch.distributed as dist

    backend = dist.get_backend(group)
    if backend == "nccl":
        raise UsageError(f"store.sync needs a group of the gloo backend, found {backend}; make one with torch.distributed.new_group(backend='gloo')")


def _settled(rows: list[Json], held: dict[str, Decision], group: dist.ProcessGroup | None) -> dict[str, str]:
    """The decision to take for each key that differs, from the rank whose choice it is."""
    import torch.distributed as dist

    source: dict[str, int] = {}
    for key in sorted({key for row in rows for key in row["held"]}):
        votes = [row["held"].get(key) for row in rows]
        counts = Counter(vote for vote in votes if vote is not None)
        if len(counts) > 1:
            most = max(counts.values())
            source[key] = next(rank for rank, vote in enumerate(votes) if vote is not None and counts[vote] == most)
    if not source:
        return {}
    mine = {key: records.encode(held[key]) for key, rank in source.items() if rank == dist.get_rank(group)}
    return {key: text for texts in gathered(mine, group) for key, text in texts.items()}


def _require_hits(rows: list[Json], held: dict[str, Decision], group: dist.ProcessGroup | None) -> None:
    """Raise, on every rank alike, if some ranks have a decision for what others asked for in vain."""
    torn = {}
    for rank, row in enumerate(rows):
        for key in row["missed"]:
            if any(key in other["held"] for other in rows):
                torn.setdefault(key, []).append(rank)
    if not torn:
        return
    # the ranks that have it know its name
    names = gathered({key: _described(held[key]) for key in torn if key in held}, group)
    each = []
    for key, ranks in sorted(torn.items()):
        name = next(row[key] for row in names if key in row)
        having = [rank for rank, row in enumerate(rows) if key in row["held"]]
        each.append(f"{name} is tuned for ranks {having} and not for ranks {ranks}")
    raise RanksDisagree(
        f"{'; '.join(each[:5])}{f' and {len(each) - 5} more' if len(each) > 5 else ''}: "
        "give every rank the same store (GEMS_CACHE_DIR, GEMS_TEAM_STORES), or run gems-cache warm before the job"
    )


def _described(decision: Decision) -> str:
    """Kernel and shape, for people."""
    shape = decision.fields["problem"].get("key") or {}
    return f"{decision.kernel}({', '.join(f'{n}={canonical(v)}' for n, v in shape.items())}) [{decision.key[:12]}]"


def gathered(value: Json, group: dist.ProcessGroup | None) -> list[Json]:
    """Every rank's value. As JSON bytes: torch's own exchange of objects unpickles what it receives."""
    import torch
    import torch.distributed as dist

    mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([mine.numel()]), group)
    padded = torch.zeros(int(max(sizes)), dtype=torch.uint8)
    padded[: mine.numel()] = mine
    blobs = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(blobs, padded, group)
    return [json.loads(bytes(blob[: int(size)].tolist())) for blob, size in zip(blobs, sizes, strict=True)]
