"""Each of the 97 names of docs/names.md is reachable: the call a user writes raises the counter of an operator of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import flag_gems
from gems_ops.register import counters, reset_counters
from gems_runtime import device

PAGE = Path(__file__).resolve().parents[2] / "docs" / "names.md"


@dataclass(frozen=True)
class Name:
    """One row of the page."""

    name: str
    call: str
    operators: frozenset[str]


def names() -> list[Name]:
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in PAGE.read_text().splitlines() if re.match(r"\| v\d", line)]
    rows = [[cell.strip().replace("\\|", "|") for cell in row] for row in cells]
    return [Name(name, call.strip("`"), frozenset(re.findall(r"[\w:.]+::[\w.]+", ops))) for _, _, name, call, ops in rows]


NAMES = names()


def scope() -> dict[str, object]:
    """What the calls name."""
    torch.manual_seed(0)
    here = device.torch_device()
    m = torch.randn(64, 64)
    tensors = {
        "m": m, "p": m.abs() + 0.5, "v": m[0].clone(), "b3": torch.randn(2, 64, 64), "i": torch.randint(0, 64, (64, 64)), "t": m > 0,
        "q": torch.randn(1, 8, 2, 16), "angles": torch.randn(8, 8),
    }  # fmt: skip
    return {"torch": torch, "F": F, "flag_gems": flag_gems, "d": here, **{name: t.to(here) for name, t in tensors.items()}}


def test_the_page_has_them_all() -> None:
    assert len(NAMES) == len({n.name for n in NAMES}) == 97


@pytest.mark.parametrize("name", NAMES, ids=lambda n: n.name)
def test_the_call_reaches_an_operator(name: Name) -> None:
    given, error = scope(), None
    reset_counters()
    flag_gems.enable()
    try:
        eval(name.call, given)  # noqa: S307  the repository's own page
    except AttributeError as missing:  # flag_gems has no such function
        error = missing
    served = {n for n, c in counters().items() if c.served}
    reached = error is None and (bool(served & name.operators) or not name.operators)
    assert reached, f"{name.call} served by {sorted(served) or 'nothing of ours'}; {error or ''}"
