"""tools/bench: launch | first | ops | peers | store | models. Each prints a table and, with --json FILE, writes its rows."""

from __future__ import annotations

import importlib
import sys

SUBCOMMANDS = {
    "launch": "host time of one kernel launch, beside a C loop of the driver's own call",
    "first": "the first call of an operator in a process, cold and compiled before",
    "ops": "every operator against ATen, GPU and host time",
    "peers": "row operators beside ATen and Liger, forward and backward",
    "store": "import, first call, disk hits with many entries, a second process",
    "models": "tokens per second of a Llama model, ATen and ours side by side",
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in SUBCOMMANDS:
        print("usage: tools/bench SUBCOMMAND [OPTIONS]", *(f"  {n:8}{what}" for n, what in SUBCOMMANDS.items()), sep="\n")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    return importlib.import_module(f"tools.bench_{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
