"""The `gems-cache` command. stdout is the answer, stderr is talk; exit 0 done, 1 problem found, 2 wrong usage."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gems_runtime.errors import GemsError, StoreError, UsageError

if TYPE_CHECKING:
    from gems_runtime.records import Decision, Json
    from gems_runtime.warm import Job

DONE, PROBLEM, USAGE = 0, 1, 2


def main(argv: list[str] | None = None) -> int:
    """Run one command and give back its exit code."""
    try:
        options = _parser().parse_args(argv)
        return options.verb(options)
    except (UsageError, StoreError) as error:
        return _say(error, USAGE)
    except GemsError as error:
        return _say(error, PROBLEM)
    except BrokenPipeError:  # the reader of stdout (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _say(error: Exception, code: int) -> int:
    print("gems-cache:", " ".join(str(error).split()), file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gems-cache", description="Tune and compile Triton kernels ahead of use; look at the results.")
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)
    _add_warm(verbs)
    _add_verb(verbs, "status", _status, "where the store is and what it holds")
    ls = _add_verb(verbs, "ls", _ls, "one line for each decision")
    ls.add_argument("kernel", nargs="?", default="", help="only kernels whose name contains this")
    show = _add_verb(verbs, "show", _show, "one entry with everything it holds")
    show.add_argument("key", metavar="KEY", help="the first letters of a key that `ls` shows")
    return parser


def _add_verb(
    verbs: argparse._SubParsersAction, name: str, verb: Callable[..., int], text: str, **extra: object
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", **extra)
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(verb=verb)
    return parser


def _add_warm(verbs: argparse._SubParsersAction) -> None:
    parser = _add_verb(
        verbs,
        "warm",
        _warm,
        "tune and compile calls before they are made",
        epilog=_WARM_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="an operator, or a kernel as package.module:attribute")
    add("--shape", action="append", default=[], help="of an operator, such as 4096x4096x4096; repeatable")
    add("--dtype", action="append", help="bf16 (the default), fp16, fp32, ...; repeatable")
    add("--args", help="of a kernel; see below")
    add("--grid", help="of a kernel; see below")
    add("--from", dest="file", type=Path, metavar="FILE", help="a shapes file: one call as JSON on each line")
    add("--model", type=Path, metavar="CONFIG", help="every call of the model with this config.json")
    add("--batch", type=_positive, default=1, help="of the model (1)")
    add("--seq", type=_positive, default=512, help="length of the model's prompt (512)")
    add("--decode", type=_count, default=0, help="tokens decoded after the prompt (0)")
    add("--compile-only", action="store_true", help="tune nothing; the default where there is no GPU")
    add("--target", help="what to compile for: cuda:80, cuda:90, hip:gfx942, ...; implies --compile-only")
    add("--dry-run", action="store_true", help="list the calls and stop")


_WARM_HELP = """\
arguments of a kernel, separated by commas, in the order of its parameters:
  *bf16[1024,1024]            a dense tensor (fp64 fp32 fp16 bf16 fp8e4nv fp8e5 i64 i32 i16 i8 u8 i1); random if it is
                              floating point, else zeros
  *fp32[64,64]:[1,64]         with strides, in elements
  *fp32[1024]+1               that starts one element into its memory, so that its address is not 16-aligned
  1024   1e-5   None   True   numbers and constants as in Python
  'text'   tl.float32         text, and a Triton type
  NAME=value                  by name: constexprs, and launch options such as num_warps=8

grid of a kernel: numbers, or expressions in its arguments and its configuration's values, separated by commas:
  8     4,2     "cdiv(n_elements, BLOCK)"     "cdiv(M, BLOCK_M) * cdiv(N, BLOCK_N), batch"

examples:
  gems-cache warm mm --shape 4096x4096x4096 --dtype bf16
  gems-cache warm my.kernels:add --args '*fp32[8192], *fp32[8192], 8192' --grid 'cdiv(n, BLOCK)'
  gems-cache warm --from untuned.jsonl
  gems-cache warm --model config.json --batch 1 --seq 64 --decode 8 --dtype fp32
"""


def _positive(text: str) -> int:
    if _count(text) == 0:
        raise argparse.ArgumentTypeError("expected at least 1")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, not {text!r}")
    return int(text)


def _warm(options: argparse.Namespace) -> int:
    # Triton decides when it is imported whether kernels are compiled or interpreted, so this is asked first.
    from gems_runtime import device, warm

    if device.interpreted():
        raise UsageError("TRITON_INTERPRET is set, so there is nothing to compile or tune; unset it for gems-cache warm")
    compile_target = _compile_target(options)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a kernel may lie in the directory one works in
    jobs = _jobs(options)
    if options.dry_run:
        return _dry_run(jobs, options.json)
    warm.require_places()
    if compile_target and not (options.target or options.compile_only):
        print(f"gems-cache: no GPU here: compiling for {compile_target}, tuning nothing", file=sys.stderr)
    report = warm.run(_with_bar(jobs), compile_target)
    for failure in report.failed:
        print(f"gems-cache: {failure['label']}: {' '.join(failure['error'].split())}", file=sys.stderr)
    print(json.dumps(report.fields(), sort_keys=True) if options.json else report)
    return PROBLEM if report.failed else DONE


def _compile_target(options: argparse.Namespace) -> str | None:
    """The target to compile for, or None to tune on the device that is here."""
    from gems_runtime import device, target, warm

    if options.target:
        target.parse_target(options.target)
        return options.target
    if not device.has_gpu():
        return warm.DEFAULT_TARGET
    return device.identity().arch if options.compile_only else None


def _jobs(options: argparse.Namespace) -> list[Job]:
    """Every call that was asked for; all of them are built before the first is run."""
    from gems_runtime import warm

    dtypes = options.dtype or ["bf16"]
    jobs: list[Job] = []
    for name in options.names:
        if ":" in name and "::" not in name:
            jobs.append(warm.kernel_job(name, options.args, options.grid))
        elif not options.shape:
            raise UsageError(f"operator {name} needs --shape, for example --shape 4096x4096x4096")
        else:
            jobs += warm.operator_jobs(name, options.shape, dtypes)
    if options.file:
        jobs += warm.file_jobs(options.file)
    if options.model:
        for dtype in dtypes:
            jobs += warm.model_jobs(options.model, options.batch, options.seq, options.decode, dtype)
    if not jobs:
        raise UsageError("nothing to warm: name an operator or a kernel, or give --from or --model")
    return jobs


def _dry_run(jobs: list[Job], as_json: bool) -> int:
    if as_json:
        print(json.dumps([{"label": job.label, "record": job.record} for job in jobs], sort_keys=True))
    else:
        print("\n".join(job.label for job in jobs))
    return DONE


def _with_bar(jobs: list[Job]) -> list[Job]:
    from tqdm import tqdm

    # disable=None: no bar where stderr is not a terminal
    return tqdm(jobs, desc="warming", unit="call", disable=None, file=sys.stderr, leave=False)


def _status(options: argparse.Namespace) -> int:
    from gems_runtime import settings, store
    from gems_runtime.records import Decision

    choice = settings.current()
    held = list(store.current().records())
    decisions = sum(isinstance(record, Decision) for record in held)
    answer = {
        "store": str(choice.cache_dir) if choice.store else None,
        "exists": choice.cache_dir.is_dir(),
        "bytes": sum(f.stat().st_size for f in choice.cache_dir.rglob("*") if f.is_file()),
        "decisions": decisions,
        "measurements": len(held) - decisions,
        "mode": choice.tune.value,
        "kernels": len({record.kernel for record in held}),
        "devices": sorted({str(record.fields["device"].get("name")) for record in held}),
    }
    _print(answer, options.json)
    return DONE


def _print(answer: dict[str, Json], as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer, sort_keys=True))
        return
    for name, value in answer.items():
        print(f"{name:14} {value if isinstance(value, (str, int, float)) else json.dumps(value)}")


def _ls(options: argparse.Namespace) -> int:
    from gems_runtime import store
    from gems_runtime.records import Decision

    found = [r for r in store.current().records() if isinstance(r, Decision) and options.kernel in r.kernel]
    if options.json:
        print(json.dumps([_row(r) for r in found], sort_keys=True))
        return DONE
    for row in map(_row, found):
        margin = "" if row["margin"] is None else f"{100 * row['margin']:.1f}%"
        print(f"{row['key'][:12]}  {row['p50_us']:10.1f} us {margin:>7}  {row['kernel']}  {row['config']}  {row['device']}")
    print(f"{len(found)} decisions", file=sys.stderr)
    return DONE


def _row(decision: Decision) -> dict[str, Json]:
    return {
        "key": decision.key,
        "kernel": decision.kernel,
        "config": _short(decision.config),
        "p50_us": decision.top[0][1],
        "margin": decision.margin,
        "problem": decision.fields["problem"].get("key"),
        "device": decision.fields["device"].get("name"),
        "time": decision.time,
    }


def _short(config: dict[str, Json]) -> str:
    options = {n: v for n, v in config.items() if n not in ("kwargs", "pre_hook") and v is not None}
    return " ".join(f"{n}={v}" for n, v in {**config["kwargs"], **options}.items())


def _show(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gems_runtime import store

    found = store.current().find(options.key)
    if not found:
        raise GemsError(f"the store {store.current().directory} has no entry {options.key}")
    if len(found) > 1:
        raise UsageError(f"{len(found)} entries begin with {options.key!r}; give more of the key")
    answer = asdict(found[0])
    answer["when"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found[0].time))
    print(json.dumps(answer, sort_keys=True, indent=None if options.json else 2))
    return DONE
