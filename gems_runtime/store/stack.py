"""The store: layers asked in order, the first valid entry answers, results go to the user's own layer.

A kernel call never fails because of the store: what cannot be read is a miss, what cannot be written stays in memory,
and each is said once.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gems_runtime import records, settings, stats
from gems_runtime.errors import StoreError
from gems_runtime.records import Decision, Measurement, Record
from gems_runtime.store import place, ranks, team
from gems_runtime.store.files import Files
from gems_runtime.store.index import Index
from gems_runtime.store.overrides import Overrides
from gems_runtime.store.remote import Remote
from gems_runtime.store.rows import Rows
from gems_runtime.store.seeds import Seed, Seeds
from gems_runtime.store.team import FILES, INDEX, Source

if TYPE_CHECKING:
    import torch.distributed as dist

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass
class Layer:
    """One place where entries may be. `sources` are found when the layer is first asked."""

    name: str
    where: str
    find: Callable[[], list[Source]]
    sources: list[Source] | None = None
    problem: str = ""


class Store:
    """Entries of one directory, of what the user's settings add to it, and of this process. Opens nothing before it is asked."""

    # Called when decisions in use have changed: what was made from them is to be forgotten.
    listeners: list[Callable[[], None]] = []

    def __init__(self, directory: Path | None, choice: settings.Settings | None = None) -> None:
        self.directory = directory
        self._memory: dict[str, Record] = {}
        # names asked for and found nowhere
        self._missed: set[str] = set()
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self.overrides = Overrides(choice.overrides or directory / "overrides.json") if choice and directory else None
        self.seeds = Seeds(directory / "seeds.json") if choice and directory else None
        self.remote = Remote(choice.redis, choice.redis_write) if choice and choice.redis else None
        self._user = Layer("user", str(directory), self._user_sources)
        self.layers = [*self._before(), self._user, *(self._after(choice) if choice else ())]

    def decision(self, key: str) -> Decision | None:
        return self._get(f"d/{key}")

    def measurement(self, key: str) -> Measurement | None:
        return self._get(f"m/{key}")

    def own_measurement(self, key: str) -> Measurement | None:
        """As `measurement`, from memory and the user's layer alone: without the cost of asking every layer in vain."""
        return self._memory.get(f"m/{key}") or self._from(self._user, f"m/{key}")

    def pinned(self, key: str) -> Decision | None:
        """The decision that a person pinned, which holds even while tuning anew."""
        return self._from(self.layers[0], f"d/{key}") if self.overrides else None

    def seeds_of(self, *kernels: str) -> list[Seed]:
        """What was imported for a kernel from other tools, by each of its names."""
        return self._of_seeds(lambda seeds: seeds.of(*kernels)) or []

    def seed_count(self) -> int:
        """How many seeds there are."""
        return self._of_seeds(Seeds.count) or 0

    def _of_seeds(self, ask: Callable[[Seeds], T]) -> T | None:
        try:
            return ask(self.seeds) if self.seeds else None
        except (OSError, ValueError) as error:
            self._say("seeds", f"the seeds are not used: {error}")
            return None

    def layer_of(self, key: str) -> str:
        """Name of the layer whose decision answers for this key; empty if none does."""
        found = (layer.name for layer in self.layers if self._from(layer, f"d/{key}") is not None)
        return next(found, "memory" if f"d/{key}" in self._memory else "")

    def publish(self, record: Record) -> None:
        """Keep a record where other processes find it; in memory only if the disk will not take it."""
        name = records.name_of(record)
        self._memory[name] = record
        self._missed.discard(name)
        try:
            text = records.encode(record)
        except ValueError as error:  # an enormous argument, say
            self._say("size", f"{name} of {record.kernel} stays in memory: {error}")
            return
        self._writing(lambda own: own.put(name, text))
        if self.remote:
            self.remote.put(name, text)

    def keep(self, held: Iterable[Record]) -> None:
        """Write many records to the user's layer. Raises StoreError if they are not kept."""
        own = self._own()
        if own is None:
            raise StoreError(f"nothing was kept: {self._unused()}")
        texts = {records.name_of(record): records.encode(record) for record in held}
        try:
            own.put_all(texts)
        except OSError as error:
            raise StoreError(f"the store {self.directory} cannot be written: {error}") from None
        self.forget()

    def remove(self, names: Iterable[str]) -> None:
        """Delete entries of the user's layer. Raises StoreError."""
        own = self._own()
        try:
            if own is not None:
                own.delete_all(list(names))
        except OSError as error:
            raise StoreError(f"the store {self.directory} cannot be written: {error}") from None
        self.forget()

    def withdraw(self, names: Iterable[str]) -> None:
        """Take back what this process has published. Like publishing, it never fails a kernel call."""
        gone = list(names)
        for name in gone:
            self._memory.pop(name, None)
        self._writing(lambda own: own.delete_all(gone), is_optional=True)
        if self.remote:
            self.remote.delete_all(gone)

    def records(self) -> Iterator[Record]:
        """Every valid record of memory and of the layers that can be listed, by name; a name's first layer answers."""
        found: dict[str, Record] = {}
        for layer in reversed(self.layers):
            found.update((records.name_of(r), r) for r in self.records_of(layer))
        pins = {n: r for n, r in found.items() if isinstance(r, Decision) and r.source == "pinned"}
        found.update(self._memory)
        found.update(pins)
        yield from (found[name] for name in sorted(found))

    def records_of(self, layer: Layer) -> Iterator[Record]:
        """Every valid record that one layer lists."""
        for source in reversed(self.sources_of(layer)):
            entries = self._asking(layer, lambda source=source: list(source.items())) or []
            for name, text in entries:
                record = self._decoded(layer, name, lambda text=text: text if text is not None else _no_text())
                if record is not None:
                    yield record

    def bad_entries(self) -> Iterator[tuple[str, str, str]]:
        """Layer, name and what is wrong, for every entry that is not what its name and its checksum say."""
        for layer in self.layers:
            for source in self.sources_of(layer):
                for name, text in self._asking(layer, lambda source=source: list(source.items())) or []:
                    try:
                        records.verify_key(_record(name, text if text is not None else _no_text()))
                    except ValueError as error:
                        yield layer.name, name, str(error)

    def find(self, prefix: str) -> list[Record]:
        """Records whose key, or name, starts with these letters."""
        return [r for r in self.records() if r.key.startswith(prefix) or records.name_of(r).startswith(prefix)]

    def digest(self) -> str:
        """One text for all decisions of the layers: equal where the same problems have the same configurations."""
        return ranks.digest(r for r in self.records() if isinstance(r, Decision))

    def sync(self, group: dist.ProcessGroup | None = None) -> int:
        """Have every rank of a gloo group use the same decisions; see `ranks.sync`. Raises RanksDisagree."""
        changed = ranks.sync(self, group)
        if changed:
            for listener in self.listeners:
                listener()
        return changed

    def last_uses(self) -> dict[str, float]:
        """When each entry of the user's layer was last read, to within a day."""
        found: dict[str, float] = {}
        for source in self.sources_of(self._user):
            found.update(self._asking(self._user, source.last_uses) or {})
        return found

    def in_use(self) -> tuple[dict[str, Decision], set[str]]:
        """What this process was told: decisions by key, and the keys of decisions that it asked for in vain."""
        held = {r.key: r for r in self._memory.values() if isinstance(r, Decision)}
        return held, {name[2:] for name in self._missed if name.startswith("d/")}

    def adopt(self, decision: Decision) -> None:
        """Use this decision in this process, whatever the layers say."""
        self._memory[records.name_of(decision)] = decision

    def forget(self) -> None:
        """Read the layers anew from now on; keep in memory what no layer has."""
        held, self._memory = self._memory, {}
        self._missed.clear()
        for name, record in held.items():
            self._memory[name] = self._first_valid(name) or record

    def close(self) -> None:
        """Close what is open; it opens again when it is asked."""
        for layer in self.layers:
            for source in layer.sources or ():
                getattr(source, "close", lambda: None)()
            layer.sources = None

    def require_writable(self) -> None:
        """Raise StoreError if records could not be kept. Creates nothing that was not there."""
        if self.directory is None:
            raise StoreError(f"nothing would be kept: {self._unused()}")
        problem = place.why_unwritable(self.directory)
        if problem:
            raise StoreError(f"the store {self.directory} cannot be written: {problem}")

    def _unused(self) -> str:
        """Why there is no directory to write to."""
        problem = self._user.problem
        return f"the store {self.where} is not used: {problem}" if problem else "the store is in memory (GEMS_STORE=0)"

    @property
    def where(self) -> str:
        """The directory it was opened for, for people; also when that cannot be used."""
        return self._user.where

    def _before(self) -> list[Layer]:
        return [Layer("overrides", str(self.overrides.path), lambda: [self.overrides])] if self.overrides else []

    def _after(self, choice: settings.Settings) -> list[Layer]:
        layers = [Layer("team", str(path), lambda path=path: team.sources(path)) for path in choice.team_stores]
        if choice.packaged:
            layers.append(Layer("packaged", team.PACKAGED, lambda: [s for path in team.packaged() for s in team.sources(path)]))
        if self.remote:
            layers.append(Layer("redis", choice.redis.rpartition("@")[2], lambda: [self.remote]))
        return layers

    def _get(self, name: str) -> Record | None:
        record = self._memory.get(name)
        if record is None:
            record = self._first_valid(name)
            if record is None:
                self._missed.add(name)
            else:
                self._memory[name] = record
        return record

    def _first_valid(self, name: str) -> Record | None:
        for layer in self.layers:
            record = self._from(layer, name)
            if record is not None:
                return record
        return None

    def _from(self, layer: Layer, name: str) -> Record | None:
        for source in self.sources_of(layer):
            record = self._decoded(layer, name, lambda: self._asking(layer, lambda: source.get(name)))
            if record is not None:
                return record
        return None

    def _decoded(self, layer: Layer, name: str, text_of: Callable[[], str | None]) -> Record | None:
        """The record under this name, or None; one that is torn, foreign or unsafe is said, and deleted if it is ours."""
        try:
            text = text_of()
            if text is None:
                return None
            return _record(name, text)
        except ValueError as error:
            stats.count("rejected")
            self._say(f"entry {layer.name}", f"ignoring the unreadable entry {name} of {layer.name} ({layer.where}): {error}")
            if layer is self._user:
                # so that it is met once; a layer that we may not write stays as it is
                self._writing(lambda own: own.delete_all([name]), is_optional=True)
            return None

    def sources_of(self, layer: Layer) -> list[Source]:
        """What a layer is read from; nothing if it cannot be used."""
        with self._lock:
            if layer.sources is None:
                layer.sources = []
                layer.sources = self._asking(layer, layer.find) or []
            return layer.sources

    def _asking(self, layer: Layer, act: Callable[[], T]) -> T | None:
        """What the layer says; None if it cannot, and then it is not asked again."""
        try:
            return act()
        except (OSError, StoreError) as error:
            self._drop(layer, str(error))
            return None

    def _writing(self, act: Callable[[Index | Files], None], is_optional: bool = False) -> None:
        own = self._own()
        try:
            if own is not None:
                act(own)
        except OSError as error:
            if not is_optional:
                self._drop(self._user, str(error))

    def _drop(self, layer: Layer, problem: str) -> None:
        """Go on without a layer. The directory may be full, read-only or broken; no kernel call is to fail for it."""
        layer.sources, layer.problem = [], problem
        if layer is self._user:
            self._say(layer.name, f"the store {self.directory} is not used, results stay in memory: {problem}")
            self.directory = None
        else:
            self._say(layer.where, f"the {layer.name} store {layer.where} is not used: {problem}")

    def _own(self) -> Index | Files | None:
        """The source that results are written to."""
        sources = self.sources_of(self._user)
        return sources[0] if sources else None

    def _user_sources(self) -> list[Source]:
        if self.directory is None:
            return []
        problem = place.distrust(self.directory)
        if problem:
            raise OSError(problem)
        files = Files(self.directory / FILES, is_ours=True)
        if place.is_network(place.filesystem(self.directory)):
            return [files]
        if importlib.util.find_spec("diskcache") is None:
            return [files, Rows(self.directory / INDEX)]
        index = Index(self.directory / INDEX)
        # the files answer too, where a directory was filled on another machine
        return [index, files] if files.directory.is_dir() else [index]

    def _say(self, topic: str, message: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            _log.warning(message)


def _no_text() -> str:
    raise ValueError("not inline text")


def _record(name: str, text: str) -> Record:
    """The record of this name. Raises ValueError."""
    record = records.decode(text)
    if records.name_of(record) != name:
        raise ValueError(f"it is the entry {records.name_of(record)}")
    return record
