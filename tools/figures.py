"""Figures with the bounds they are held to, and programs that measure them in a process of their own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.report import Column

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One figure, with the bound it is held to if there is one."""

    what: str
    value: float
    unit: str
    bound: float | None = None
    correct: bool = True

    @property
    def passes(self) -> bool:
        return self.correct and (self.bound is None or self.value <= self.bound)


COLUMNS = (
    Column("what", "what"),
    Column("value", "value", ".3f"),
    Column("unit", "unit"),
    Column("at most", "bound", ".3g"),
    Column("correct", "correct"),
)


def python(code: str, *arguments: str, **environment: str) -> dict[str, object]:
    """Run code in a new process and read the JSON it prints last."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def median(runs: list[dict[str, object]], name: str) -> float:
    return statistics.median(float(run[name]) for run in runs)
