"""The calls that a command is about: the arguments that select them, and the jobs they mean."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gems_runtime.cli.parser import count, positive
from gems_runtime.errors import UsageError

if TYPE_CHECKING:
    from gems_runtime.jobs import Job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="an operator, or a kernel as package.module:attribute or file.py:attribute")
    add("--shape", action="append", default=[], help="of an operator, such as 4096x4096x4096; repeatable")
    add("--dtype", action="append", help="bf16 (the default), fp16, fp32, ...; repeatable")
    add("--args", help="of a kernel; see below")
    add("--grid", help="of a kernel; see below")
    add("--from", dest="file", type=Path, metavar="FILE", help="a shapes file: one call as JSON on each line")
    add("--model", type=Path, metavar="CONFIG", help="every call of the model with this config.json")
    add("--batch", type=positive, default=1, help="of the model (1)")
    add("--seq", type=positive, default=512, help="length of the model's prompt (512)")
    add("--decode", type=count, default=0, help="tokens decoded after the prompt (0)")
    add("--target", help="what to compile for: cuda:80, cuda:90, hip:gfx942, ...; nothing is timed")


HELP = """\
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
"""


def require_compiler() -> None:
    """Raise UsageError where kernels are interpreted. Triton decides that when it is imported, so this is asked first."""
    from gems_runtime import device

    if device.interpreted():
        raise UsageError("TRITON_INTERPRET is set, so there is nothing to compile or tune; unset it for gems-cache")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a kernel may lie in the directory one works in


def target_of(options: argparse.Namespace, compile_only: bool = False) -> str | None:
    """The target to compile for, or None to run on the device that is here."""
    from gems_runtime import device, target, warm

    if options.target:
        target.parse_target(options.target)
        return options.target
    if not device.has_gpu():
        return warm.DEFAULT_TARGET
    return device.identity().arch if compile_only else None


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """Every call that was selected, each once; all of them are built before the first is run."""
    from gems_runtime import jobs

    dtypes = options.dtype or ["bf16"]
    found: list[Job] = []
    for name in options.names:
        if ":" in name and "::" not in name:
            found.append(jobs.kernel_job(name, options.args, options.grid))
        elif not options.shape:
            raise UsageError(f"operator {name} needs --shape, for example --shape 4096x4096x4096")
        else:
            found += jobs.operator_jobs(name, options.shape, dtypes)
    if options.file:
        found += jobs.file_jobs(options.file)
    if options.model:
        for dtype in dtypes:
            found += jobs.model_jobs(options.model, options.batch, options.seq, options.decode, dtype)
    return jobs.distinct(found)
