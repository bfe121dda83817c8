"""What a verb prints and how it ends: the answer on stdout, talk and progress on stderr, an exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

    from gems_runtime.records import Json

T = TypeVar("T")

DONE = 0
FINDINGS = 1  # done, and something was found that the user should look at
USAGE = 2  # the command was malformed or asked for what does not exist
INTERRUPTED = 130  # as a shell says it
ENVIRONMENT = 3  # the machine does not allow it: no device, a directory that cannot be written


def talk(message: object) -> None:
    """One sentence for the person at the terminal."""
    print("gems-cache:", " ".join(str(message).split()), file=sys.stderr)


def answer(options: argparse.Namespace, value: Json, text: str) -> None:
    """The answer: `value` with --json, else `text`. An empty text prints nothing."""
    if options.json:
        print(json.dumps(value, sort_keys=True))
    elif text:
        print(text)


def aligned(answer: dict[str, Json]) -> str:
    """A record as lines of name and value."""
    plain = lambda value: value if isinstance(value, (str, int, float)) else json.dumps(value)
    return "\n".join(f"{name:14} {plain(value)}" for name, value in answer.items())


def bar(items: Iterable[T], what: str, unit: str) -> tqdm[T]:
    """The items, with a progress bar if stderr is a terminal; or `update()` it while something else goes through them."""
    from tqdm import tqdm  # costs 20 ms that a listing should not pay

    # disable=None: no bar where stderr is not a terminal
    return tqdm(items, desc=what, unit=unit, disable=None, file=sys.stderr, leave=False)
