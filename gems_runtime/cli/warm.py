"""`gems-cache warm`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gems_runtime.cli.output import DONE, FINDINGS, answer, bar, talk
from gems_runtime.cli.parser import Verb, count, positive
from gems_runtime.errors import UsageError

if TYPE_CHECKING:
    from gems_runtime.warm import Job


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="an operator, or a kernel as package.module:attribute")
    add("--shape", action="append", default=[], help="of an operator, such as 4096x4096x4096; repeatable")
    add("--dtype", action="append", help="bf16 (the default), fp16, fp32, ...; repeatable")
    add("--args", help="of a kernel; see below")
    add("--grid", help="of a kernel; see below")
    add("--from", dest="file", type=Path, metavar="FILE", help="a shapes file: one call as JSON on each line")
    add("--model", type=Path, metavar="CONFIG", help="every call of the model with this config.json")
    add("--batch", type=positive, default=1, help="of the model (1)")
    add("--seq", type=positive, default=512, help="length of the model's prompt (512)")
    add("--decode", type=count, default=0, help="tokens decoded after the prompt (0)")
    add("--compile-only", action="store_true", help="tune nothing; the default where there is no GPU")
    add("--target", help="what to compile for: cuda:80, cuda:90, hip:gfx942, ...; implies --compile-only")
    add("--dry-run", action="store_true", help="list the calls and stop")


_HELP = """\
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


def _run(options: argparse.Namespace) -> int:
    # Triton decides when it is imported whether kernels are compiled or interpreted, so this is asked first.
    from gems_runtime import device, warm

    if device.interpreted():
        raise UsageError("TRITON_INTERPRET is set, so there is nothing to compile or tune; unset it for gems-cache warm")
    compile_target = _compile_target(options)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a kernel may lie in the directory one works in
    jobs = _jobs(options)
    if options.dry_run:
        answer(options, [{"label": job.label, "record": job.record} for job in jobs], "\n".join(job.label for job in jobs))
        return DONE
    warm.require_places()
    if compile_target and not (options.target or options.compile_only):
        talk(f"no GPU here: compiling for {compile_target}, tuning nothing")
    report = warm.run(bar(jobs, "warming", "call"), compile_target)
    for failure in report.failed:
        talk(f"{failure['label']}: {failure['error']}")
    answer(options, report.fields(), str(report))
    return FINDINGS if report.failed else DONE


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


VERB = Verb("warm", "tune and compile calls before they are made", _run, _arguments, _HELP)
