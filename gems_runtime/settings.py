"""Every choice a user can make, in one frozen record. The only module that reads the environment (`GEMS_*`)."""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

from gems_runtime.errors import UsageError

T = TypeVar("T")


class Mode(enum.Enum):
    """What a kernel call does when the store has no decision for it. In order of strictness."""

    REFRESH = "refresh"  # benchmark even when a decision exists; it stays unless it is beaten
    AUTO = "auto"  # benchmark the candidates and store the winner
    RECORD = "record"  # as frozen, and append the call to the untuned log
    FROZEN = "frozen"  # use a neighbour's config or the default; never benchmark, never write
    STRICT = "strict"  # raise StoreMiss
    OFF = "off"  # use the default config; read and write nothing


class SoftEnv(enum.Enum):
    """What a stored decision is worth that was made with another torch, CUDA or driver than are here."""

    IGNORE = "ignore"  # what it is worth here
    WARN = "warn"  # the same, and it is said once
    MISS = "miss"  # nothing, nor are its measurements: it is tuned anew


class Native(enum.Enum):
    """Where the native launch tier comes from."""

    OFF = "0"  # nowhere: launches are made from Python
    ON = "1"  # the module that was built at installation; without one, a C compiler, once per machine
    JIT = "jit"  # the C compiler, even beside a module built at installation


def flag(text: str) -> bool:
    """Read a switch: 1/true/yes/on or 0/false/no/off."""
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.strip().lower() not in known:
        raise ValueError("expected 0 or 1")
    return known[text.strip().lower()]


def paths(text: str) -> tuple[Path, ...]:
    """Read a list of paths as PATH is written."""
    return tuple(Path(part) for part in text.split(os.pathsep) if part)


def env(name: str, default: T, parse: Callable[[str], T], doc: str) -> T:
    """A settings field read from the environment variable `name` when the process first asks for settings."""

    def read() -> T:
        text = os.environ.get(name)
        if text is None or text == "":
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise UsageError(f"{name}={text!r} is not understood ({error}); {doc}") from None

    return field(default_factory=read, metadata={"env": name, "doc": doc, "default": default})


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gems"


@dataclass(frozen=True)
class Settings:
    """The user's choices. Build one to read the environment afresh; `current()` is the one in force."""

    cache_dir: Path = env("GEMS_CACHE_DIR", _user_cache(), Path, "directory of the tuning store.")
    store: bool = env("GEMS_STORE", True, flag, "0 keeps tuning results in memory only.")
    overrides: Path | None = env("GEMS_OVERRIDES", None, Path, "file of pinned decisions; overrides.json in GEMS_CACHE_DIR.")
    team_stores: tuple[Path, ...] = env("GEMS_TEAM_STORES", (), paths, "stores and bundles that are only read, separated by colons.")
    packaged: bool = env("GEMS_PACKAGED", True, flag, "0 leaves out results that installed packages bring.")
    trusted_key: Path | None = env("GEMS_TRUSTED_KEY", None, Path, "public key (PEM); bundles that it did not sign are refused.")
    redis: str = env("GEMS_REDIS", "", str, "URL of a Redis server that is asked last, such as redis://host:6379/0.")
    redis_write: bool = env("GEMS_REDIS_WRITE", False, flag, "1 sends results to that server, and tunes a key on one host only.")
    tune: Mode = env("GEMS_TUNE", Mode.AUTO, Mode, "one of " + ", ".join(m.value for m in Mode) + ".")
    untuned: Path = env("GEMS_UNTUNED", Path(), Path, "file that record mode appends to; empty: `untuned.jsonl` in the store.")
    salt: str = env("GEMS_STORE_SALT", "", str, "any text; results stored under another salt are not seen.")
    soft_env: SoftEnv = env("GEMS_SOFT_ENV", SoftEnv.WARN, SoftEnv, "results of another torch or driver: ignore that, warn or miss.")
    deterministic: bool = env("GEMS_TUNE_DETERMINISTIC", False, flag, "1 lets no clock choose a configuration: stored ones and defaults only.")
    tune_wait_s: float = env("GEMS_TUNE_WAIT_S", 600.0, float, "seconds to wait for another process's tuning.")
    fast_launch: bool = env("GEMS_FAST_LAUNCH", True, flag, "0 sends every launch through stock Triton.")
    native: Native = env("GEMS_NATIVE", Native.ON, Native, "0 launches from Python, jit ignores the installed module.")
    compile_jobs: int = env("GEMS_COMPILE_JOBS", 0, int, "threads that compile a kernel's candidates; 0: one a core.")
    quiet_gpu: bool = env("GEMS_TUNE_QUIET", False, flag, "1 keeps no result if the GPU slowed down, or others used it, as NVML sees it.")
    check_numerics: bool = env("GEMS_TUNE_CHECK", True, flag, "0 lets a configuration win unchecked.")


_current: Settings | None = None


def current() -> Settings:
    """The settings in force, read from the environment on first use."""
    global _current
    if _current is None:
        _current = Settings()
    return _current


def environment(**changes: str) -> dict[str, str]:
    """The environment for a program that is started from here: it has our settings, with these variables changed."""
    chosen = {f.metadata["env"]: (getattr(current(), f.name), f.metadata["default"]) for f in fields(Settings)}
    return {**os.environ, **{name: _text(value) for name, (value, default) in chosen.items() if value != default}, **changes}


def _text(value: object) -> str:
    """A setting as its variable spells it."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(int(value))
    return os.pathsep.join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def gpus() -> int:
    """How many NVIDIA GPUs the process will see, as files and the environment say: torch, which knows, takes seconds to import."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdecimal()])


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that torchrun started."""

    rank: int
    world: int
    local: int


def ranks() -> Ranks | None:
    """What torchrun says, or None where it started nothing. Raises UsageError."""
    found = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if found[0] is None or found[1] is None:
        return None
    try:
        return Ranks(int(found[0]), int(found[1]), int(found[2] or 0))
    except ValueError:
        raise UsageError(f"RANK, WORLD_SIZE and LOCAL_RANK are {found}, not whole numbers") from None


@contextlib.contextmanager
def override(**changes: object) -> Iterator[Settings]:
    """Change settings for a `with` block, process-wide: `with override(tune=Mode.FROZEN): ...`."""
    global _current
    unknown = changes.keys() - {f.name for f in fields(Settings)}
    if unknown:
        raise UsageError(f"unknown setting {sorted(unknown)[0]!r}; known: {', '.join(f.name for f in fields(Settings))}")
    before = current()
    _current = replace(before, **changes)
    try:
        yield _current
    finally:
        _current = before
