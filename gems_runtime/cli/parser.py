"""A verb's declaration, the command line made of several, and the kinds of values they take."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from gems_runtime.errors import UsageError


@dataclass(frozen=True)
class Verb:
    """One `gems-cache NAME`. `arguments` adds its own to the parser; `--json` is there already."""

    name: str
    summary: str
    run: Callable[[argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    epilog: str = ""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def build(verbs: Iterable[Verb]) -> argparse.ArgumentParser:
    """The parser of the whole command. Its namespace's `verb` is the function to call."""
    parser = _Parser(prog="gems-cache", description="Tune and compile Triton kernels ahead of use; look at the results.")
    subparsers = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)
    for verb in verbs:
        one = subparsers.add_parser(
            verb.name,
            help=verb.summary,
            description=verb.summary[0].upper() + verb.summary[1:] + ".",
            epilog=verb.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.arguments(one)
        one.add_argument("--json", action="store_true", help="print the answer as JSON")
        one.set_defaults(verb=verb.run)
    return parser


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if count(text) == 0:
        raise argparse.ArgumentTypeError("expected at least 1")
    return int(text)


def count(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, not {text!r}")
    return int(text)
