"""`gems-cache export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gems_runtime.cli.output import DONE, aligned, answer, talk
from gems_runtime.cli.parser import Verb
from gems_runtime.errors import GemsError, StoreError, UsageError

if TYPE_CHECKING:
    from gems_runtime.records import Decision, Json, Record


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="the bundle to make, NAME.gemsx; with --to, see below")
    parser.add_argument("--to", choices=("python", "vllm-moe"), help="write the decisions as another program reads them")
    parser.add_argument("--kernel", default="", help="only kernels whose name contains this")
    parser.add_argument("--device", default="", help="only results of devices whose name contains this")
    parser.add_argument("--sign", metavar="KEY", type=Path, help="sign the bundle with this private key (PEM, Ed25519), into FILE.sig")
    parser.add_argument("--with-kernels", action="store_true", help="and the compiled code of these kernels")


def _run(options: argparse.Namespace) -> int:
    from gems_runtime import store
    from gems_runtime.records import Decision
    from gems_runtime.store import bundle, ranks, signing

    if options.file.suffix != bundle.SUFFIX and not options.to:
        raise UsageError(f"a bundle's name ends in {bundle.SUFFIX}, found {options.file}")
    device = lambda record: str(record.fields["device"].get("name"))
    held = [r for r in store.current().records() if options.kernel in r.kernel and options.device in device(r)]
    if not held:
        raise GemsError(f"the store {store.current().where} has nothing to export")
    if options.to:
        return _write_foreign(options, [r for r in held if isinstance(r, Decision)])
    key = signing.private_key(options.sign) if options.sign else None
    compiled, toolchain = _kernels(held) if options.with_kernels else ({}, None)
    try:
        bundle.write(options.file, held, compiled, toolchain)
        signature = signing.sign(options.file, key) if key else None
    except OSError as error:
        raise StoreError(f"{options.file} cannot be written: {error.strerror or error}") from None
    decisions = [r for r in held if isinstance(r, Decision)]
    made = {
        "bundle": str(options.file),
        "bytes": options.file.stat().st_size,
        "decisions": len(decisions),
        "measurements": len(held) - len(decisions),
        "compiled": len({name.split("/")[0] for name in compiled}),
        "devices": sorted({device(r) for r in held}),
        "digest": ranks.digest(decisions),
        **({"signature": str(signature)} if signature else {}),
    }
    answer(options, made, aligned(made))
    return DONE


def _write_foreign(options: argparse.Namespace, decisions: list[Decision]) -> int:
    from gems_runtime import foreign

    if options.with_kernels or options.sign:
        raise UsageError("--with-kernels and --sign are for bundles; other programs read configurations alone")
    try:
        files = foreign.WRITERS[options.to](options.file, decisions)
    except OSError as error:
        raise StoreError(f"{options.file} cannot be written: {error.strerror or error}") from None
    left = len(decisions) - sum(files.values())
    answer(options, {"files": files, "left_out": left}, "\n".join(f"{count:6}  {path}" for path, count in files.items()))
    if left and not options.json:
        talk(f"{left} decisions do not fit the format and were left out")
    return DONE


def _kernels(held: list[Record]) -> tuple[dict[str, bytes], Json]:
    """The compiled code of the records' kernels, and what compiled it."""
    import triton

    from gems_runtime import toolchain
    from gems_runtime.store import kernels

    names = {record.fields["kernel"].get("name") for record in held}
    return kernels.collect(Path(triton.knobs.cache.dir), names), {"triton": triton.__version__, "code": toolchain.code_hash()}


_EPILOG = """\
--to python     FILE is a Python file with a list of triton.Config, each with its kernel, device and problem
--to vllm-moe   FILE is a directory for files E=..,N=..,device_name=...json, for kernels whose tuning keys are E, N and M
"""
VERB = Verb("export", "write the store's entries to one file that can be carried elsewhere", _run, _arguments, _EPILOG)
