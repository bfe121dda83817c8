"""`gems-cache warm`."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
from typing import TYPE_CHECKING

from gems_runtime.cli import selection
from gems_runtime.cli.output import DONE, FINDINGS, answer, bar, talk
from gems_runtime.cli.parser import Verb, positive
from gems_runtime.errors import UsageError

if TYPE_CHECKING:
    from gems_runtime.jobs import Job
    from gems_runtime.warm import Report

_EPILOG = f"""{selection.HELP}
examples:
  gems-cache warm mm --shape 4096x4096x4096 --dtype bf16
  gems-cache warm my.kernels:add --args '*fp32[8192], *fp32[8192], 8192' --grid 'cdiv(n, BLOCK)'
  gems-cache warm --run "python serve.py --once"
  gems-cache warm --from untuned.jsonl --devices all --budget 10m
  gems-cache warm --model config.json --batch 1 --seq 64 --decode 8 --dtype fp32

Under torchrun each process takes its share of the calls, on its own device.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    selection.add_arguments(parser)
    add = parser.add_argument
    add("--run", type=_command, metavar="COMMAND", help="run this program in record mode until it or Ctrl-C ends it; warm the calls it made that were not tuned")
    add("--compile-only", action="store_true", help="tune nothing; the default where there is no GPU")
    add("--devices", type=_devices, help="all, or numbers such as 0,2: one worker process for each GPU")
    add("--isolate", action="store_true", help="tune in a worker process: what crashes it, or hangs, fails alone")
    add("--jobs", type=positive, help="compilations at a time: worker processes with --compile-only, else threads")
    add("--shard", type=_shard, metavar="I/N", help="only part I (from 1) of N of the calls")
    add("--budget", type=_seconds, metavar="TIME", help="begin no call after this long: 90s, 10m, 2h")
    add("--resume", action="store_true", help="skip calls that an earlier warm has done here")
    add("--refresh", action="store_true", help="time again what is decided already; a decision stays unless it is beaten")
    add("--dry-run", action="store_true", help="list the calls and stop")


def _command(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return words or [""]


def _devices(text: str) -> list[int] | None:
    """Device numbers; the empty list stands for all."""
    if not re.fullmatch(r"all|\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"expected all, or numbers such as 0,1, not {text!r}")
    return [] if text == "all" else [int(n) for n in text.split(",")]


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, such as 1/4, not {text!r}")
    return int(found[1]), int(found[2])


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 10m or 2h, not {text!r}")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _run(options: argparse.Namespace) -> int:
    from gems_runtime import begun

    with _tuning_mode(options.refresh):
        _begin_workers(options)
        try:
            return _warmed(options)
        finally:
            begun.dismiss()


def _begin_workers(options: argparse.Namespace) -> None:
    """Start what `--devices` asks for before anything slow is imported. What it asks for in vain is said afterwards."""
    from gems_runtime import begun, settings

    if options.devices is None or options.dry_run or options.target or options.compile_only or options.run:
        return
    numbers = options.devices or range(settings.gpus())
    for number in numbers:
        if number < settings.gpus():
            begun.begin(_command_line(options, number), _threads(options, len(numbers)))


def _warmed(options: argparse.Namespace) -> int:
    selection.require_compiler()
    compile_target = selection.target_of(options, options.compile_only)
    jobs, code = _jobs(options)
    if options.dry_run:
        answer(options, [{"label": job.label, "record": job.record} for job in jobs], "\n".join(job.label for job in jobs))
        return DONE
    from gems_runtime import warm

    warm.require_places()
    if compile_target and not (options.target or options.compile_only):
        talk(f"no GPU here: compiling for {compile_target}, tuning nothing")
    report = _warm(options, jobs, compile_target)
    for failure in report.failed:
        talk(f"{failure['label']}: {failure['error']}")
    if report.left:
        talk(f"{report.left} calls were not begun; the same command with --resume does the rest")
    answer(options, report.fields(), str(report))
    return FINDINGS if report.failed or report.left or code else DONE


def _tuning_mode(refresh: bool) -> contextlib.AbstractContextManager[object]:
    """Settings in which tuning is allowed: an environment made for serving forbids it."""
    from gems_runtime import settings
    from gems_runtime.settings import Mode

    return settings.override(tune=Mode.REFRESH if refresh else Mode.AUTO, deterministic=False)


def _jobs(options: argparse.Namespace) -> tuple[list[Job], int]:
    """This process's share of the selected calls, and the exit code of the program that was run, if one was."""
    from gems_runtime import jobs, settings

    found, code = selection.jobs_of(options), 0
    if options.run:
        more, code = jobs.recorded(options.run)
        found = jobs.distinct(found + more)
        talk(f"{options.run[0]} ended with code {code} and made {len(more)} calls that were not tuned")
    elif not found:
        raise UsageError("nothing to warm: name an operator or a kernel, or give --from, --model or --run")
    ranks = settings.ranks()
    part = options.shard or (ranks and (ranks.rank + 1, ranks.world))
    return (jobs.shard(found, *part) if part else found), code


def _warm(options: argparse.Namespace, jobs: list[Job], compile_target: str | None) -> Report:
    """In this process, or with a crew of workers."""
    from gems_runtime import crew, settings, warm

    progress = bar(jobs, "warming", "call")
    commands = _workers(options, compile_target)
    if commands is None:
        threads = settings.override(compile_jobs=options.jobs or settings.current().compile_jobs)
        with threads:
            return warm.run(progress, compile_target, options.resume, options.budget)
    with progress:
        report = crew.run(jobs, commands, options.budget, _threads(options, len(commands)), progress.update)
    report.target = compile_target or ""
    return report


def _workers(options: argparse.Namespace, compile_target: str | None) -> list[list[str]] | None:
    """The arguments of each worker process, or None where this process does the work itself."""
    from gems_runtime import device, settings

    if compile_target:
        if options.devices is not None:
            raise UsageError("--devices tunes on GPUs, and here nothing is tuned; --jobs shares out compiling")
        if options.isolate:
            raise UsageError("--isolate is about timing, and here nothing is timed")
        command = ["--target", compile_target, *["--resume"] * options.resume]
        return [command] * options.jobs if options.jobs and options.jobs > 1 else None
    count, ranks = device.count(), settings.ranks()
    if options.devices is None:
        if options.isolate or ranks:
            return [_command_line(options, ranks.local % count if ranks else 0)]
        return None
    numbers = options.devices or list(range(count))
    if max(numbers) >= count:
        raise UsageError(f"there is no device {max(numbers)}: this host has {count}")
    return [_command_line(options, number) for number in numbers]


def _command_line(options: argparse.Namespace, number: int) -> list[str]:
    """The arguments of the worker of a device."""
    return ["--device", str(number), *["--resume"] * options.resume]


def _threads(options: argparse.Namespace, workers: int) -> int:
    """Compiling threads of each worker: the cores are shared out."""
    import os

    cores = options.jobs or len(os.sched_getaffinity(0))
    return max(1, cores // workers)


VERB = Verb("warm", "tune and compile calls before they are made", _run, _arguments, _EPILOG)
