"""Files of other tools: what they found, read as seeds; what the store found, written as they read it.

Only formats that are public and hold Triton configurations. Helion's are in Helion's own terms, torch.cuda.tunable's name
solutions of libraries, and neither means anything to a kernel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gems_runtime import records
from gems_runtime.errors import UsageError
from gems_runtime.records import Decision, Json
from gems_runtime.store.seeds import OPTIONS, Seed, seed

_LIMIT = 16 << 20
_TRITON = ".autotune.json"
_MOE_NAME = re.compile(r"E=\d+,N=\d+,device_name=[^/]+\.json")
_MOE_BLOCKS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K")


def _triton(path: Path, kernel: str | None) -> Iterator[Seed]:
    """`NAME.autotune.json` of Triton's `@autotune(cache_results=True)`, or a directory of them such as Triton's cache."""
    files = sorted(path.rglob(f"*{_TRITON}")) if path.is_dir() else [path]
    if not all(file.name.endswith(_TRITON) for file in files) or not files:
        raise UsageError(f"{path} is no file NAME{_TRITON} of Triton's autotuner (cache_results=True), nor a directory of them")
    for file in files:
        try:
            timed = [(_median(times), config) for config, times in _read(file)["configs_timings"]]
        except (LookupError, TypeError, ValueError) as error:
            raise UsageError(f"{file} is not what Triton's autotuner writes: {_said(error)}") from None
        best = min((pair for pair in timed if pair[0] is not None), key=lambda pair: pair[0], default=None)
        if best is not None:
            yield _seed(file, kernel or file.name.removesuffix(_TRITON), best[1])


def _median(times: Json) -> float | None:
    """Triton writes the median, and perhaps two quantiles; an infinity, which is read as None, for what failed."""
    time = times[0] if isinstance(times, list) else times
    return float(time) if time is not None else None


def _vllm_moe(path: Path, kernel: str | None) -> Iterator[Seed]:
    """`E=..,N=..,device_name=...json` of vLLM's or SGLang's fused mixture of experts: a configuration by number of tokens."""
    if not _MOE_NAME.fullmatch(path.name):
        raise UsageError(f"{path.name} is not named as vLLM names such files: E=8,N=14336,device_name=NVIDIA_H200.json")
    if kernel is None:
        raise UsageError("such a file does not name its kernel: give --kernel package.module.function")
    found = _read(path)
    if not isinstance(found, dict):
        raise UsageError(f"{path} is no object of configurations")
    for tokens, config in found.items():
        if tokens.isdecimal():  # else a remark, such as triton_version
            fields = {"kwargs": {n: v for n, v in config.items() if n not in OPTIONS}} if isinstance(config, dict) else None
            yield _seed(path, kernel, {**fields, **{n: config[n] for n in OPTIONS if n in config}} if fields else None)


def _fla(path: Path, kernel: str | None) -> Iterator[Seed]:
    """`NAME.json` of flash-linear-attention, or a directory of them: a configuration by tuning key, and one for all the rest."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"the directory {path} has no file NAME.json")
    for file in files:
        found = _read(file)
        entries = found.get("autotune_entries") or {} if isinstance(found, dict) else None
        if not isinstance(entries, dict):
            raise UsageError(f"{file} is not what flash-linear-attention writes: it has no object autotune_entries")
        # Before it had entries by key, a file was one configuration.
        rest = found.get("default_config", None if "autotune_entries" in found else found)
        configs = [entry.get("config") if isinstance(entry, dict) else None for entry in entries.values()]
        for config in configs + [rest] * (rest is not None):
            yield _seed(file, kernel or file.stem, config)


def _seed(file: Path, kernel: str, fields: Json) -> Seed:
    try:
        return seed(kernel, fields)
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None


def _read(path: Path) -> Json:
    try:
        with path.open("rb") as file:
            blob = file.read(_LIMIT + 1)
        if len(blob) > _LIMIT:
            raise UsageError(f"{path} is larger than {_LIMIT >> 20} MiB")
        return records.parse_foreign(blob.decode())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not understood: {error}") from None


def _said(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


READERS: dict[str, Callable[[Path, "str | None"], Iterator[Seed]]] = {"fla": _fla, "triton": _triton, "vllm-moe": _vllm_moe}


def _python(path: Path, decisions: Iterable[Decision]) -> dict[str, int]:
    """One Python file with a list of what was chosen. Gives back how many are in each file that was written."""
    if path.suffix != ".py":
        raise UsageError(f"a Python file's name ends in .py, found {path}")
    head = '"""What gems_runtime chose. Written by `gems-cache export --to python`."""\n\nimport triton\n\nCHOSEN = [\n'
    rows = [_python_row(decision) for decision in decisions if _is_plain(decision.config)]
    path.write_text(head + "".join(rows) + "]\n")
    return {str(path): len(rows)}


def _python_row(decision: Decision) -> str:
    problem = decision.fields["problem"]
    config = {n: decision.config[n] for n in OPTIONS if decision.config.get(n) is not None}
    options = "".join(f", {name}={value!r}" for name, value in config.items())
    known = {
        "kernel": decision.kernel,
        "device": decision.fields["device"].get("name"),
        "key": problem.get("key"),
        "arguments": problem.get("arguments"),
        "us": decision.top[0][1],
    }
    return f"    {{**{known!r}, 'config': triton.Config({decision.config['kwargs']!r}{options})}},\n"


def _is_plain(config: dict[str, Json]) -> bool:
    """False for one that a file cannot hold: with a hook, a replaced intermediate text, or values that are Python objects."""
    values = config["kwargs"].values()
    return not config.get("pre_hook") and not config.get("ir_override") and not any(isinstance(v, (list, dict)) for v in values)


def _to_vllm_moe(path: Path, decisions: Iterable[Decision]) -> dict[str, int]:
    """A file for each number of experts, size and device, in the directory `path`."""
    files: dict[str, dict[int, Json]] = {}
    for decision in decisions:
        key = decision.fields["problem"].get("key") or {}
        kwargs = decision.config["kwargs"]
        has_sizes = all(type(key.get(n)) is int for n in ("E", "N", "M"))
        if has_sizes and kwargs.keys() >= set(_MOE_BLOCKS) and _is_plain(decision.config):
            name = f"E={key['E']},N={key['N']},device_name={_moe_device(decision)}.json"
            options = {n: decision.config[n] for n in ("num_warps", "num_stages") if decision.config.get(n) is not None}
            files.setdefault(name, {})[key["M"]] = {**kwargs, **options}
    if not files:
        raise UsageError(f"no decision has the tuning keys E, N and M and a configuration of {', '.join(_MOE_BLOCKS)}")
    path.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        ordered = {str(tokens): rows[tokens] for tokens in sorted(rows)}
        (path / name).write_text(json.dumps(ordered, indent=4, allow_nan=False) + "\n")
    return {str(path / name): len(rows) for name, rows in files.items()}


def _moe_device(decision: Decision) -> str:
    """As vLLM spells it."""
    return re.sub(r"[^\w.-]", "_", str(decision.fields["device"].get("name")))


WRITERS: dict[str, Callable[[Path, Iterable[Decision]], dict[str, int]]] = {"python": _python, "vllm-moe": _to_vllm_moe}
