"""Runs the few instructions of gems_ops/order/ptx.py, for all threads of a program in step: barriers have nothing to do.

A branch must be taken by all or none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

WARP = 32
_COMPARED: dict[str, Callable] = {"eq": np.equal, "ne": np.not_equal, "gt": np.greater, "lt": np.less}


class Machine:
    """`memory` is shared memory in words of 32 bits; `read` gives the word of a 64-bit address outside of it, for each thread."""

    def __init__(self, threads: int = 256, read: Callable[[int], int] | None = None) -> None:
        self.threads, self.memory, self._read = threads, np.zeros(0, np.uint32), read
        self._registers: dict[str, np.ndarray] = {}

    def run(self, text: str, operands: Sequence[np.ndarray | int], n_results: int) -> list[np.ndarray]:
        """What the text makes of operands, which follow the results in its numbering. Text and operands as inline assembly has them."""
        lane = np.arange(self.threads) % WARP
        self._registers = {
            "%tid.x": np.arange(self.threads), "%laneid": lane, "%lanemask_eq": 1 << lane, "%lanemask_lt": (1 << lane) - 1,
            **{f"${n_results + i}": np.broadcast_to(np.asarray(value), (self.threads,)).copy() for i, value in enumerate(operands)},
        }  # fmt: skip
        program, labels = [], {}
        for line in re.split(r"[;\n]", text.strip()[1:-1]):
            while found := re.match(r"\s*(\w+):(?!:)", line):
                labels[found[1]] = len(program)
                line = line[found.end() :]
            if line.strip():
                program.append(line.strip())
        at = 0
        while at < len(program):
            label = self._step(program[at])
            at = at + 1 if label is None else labels[label]
        return [self._registers[f"${i}"] for i in range(n_results)]

    def _step(self, line: str) -> str | None:
        """One instruction; the label of a branch that is taken."""
        who = np.ones(self.threads, bool)
        if line.startswith("@"):
            predicate, line = line[1:].split(None, 1)
            who = self._registers[predicate].astype(bool)
        name, _, rest = line.partition(" ")
        operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest)
        kind, *modes = name.lstrip(".").split(".")
        if kind == "shared":
            self.memory = np.zeros(int(re.search(r"\[(\d+)\]", rest)[1]) // 4, np.uint32)
        elif kind == "bra":
            assert who.all() or not who.any(), "threads part"
            return operands[0] if who.any() else None
        elif kind == "trap":
            assert not who.any(), "trap"
        elif kind in ("ld", "st", "red"):
            self._access(kind, modes, operands, who)
        elif kind not in ("reg", "bar"):
            self._compute(kind, modes, operands, who)
        return None

    def _value(self, operand: str) -> np.ndarray:
        if operand == "gems_tile":
            return np.zeros(self.threads, np.int64)
        if re.fullmatch(r"-?(0x)?[0-9a-f]+", operand):
            return np.full(self.threads, int(operand, 0), np.int64)
        return self._registers[operand].astype(np.int64)

    def _set(self, name: str, value: np.ndarray, who: np.ndarray, bits: int = 32) -> None:
        value = value if bits == 64 else value & 0xFFFFFFFF
        self._registers[name] = np.where(who, value, self._registers.get(name, np.zeros(self.threads, np.int64)))

    def _compute(self, kind: str, modes: list[str], operands: list[str], who: np.ndarray) -> None:
        to, *sources = operands
        if kind == "mov" and to.startswith("{"):
            low, high = to.strip("{}").split(",")
            value = self._value(sources[0])
            self._set(low.strip(), value, who)
            self._set(high.strip(), value >> 32, who)
            return
        values = [self._value(s) for s in sources]
        signed = [np.where(v >= 1 << 31, v - (1 << 32), v) if "s32" in modes else v for v in values]
        if kind == "setp":
            self._registers[to] = _COMPARED[modes[0]](*signed)
        elif kind == "shfl":
            to, predicate = to.split("|")
            source = np.arange(self.threads) - values[1]
            inside = np.arange(self.threads) % WARP >= values[1]
            self._registers[predicate] = inside
            self._set(to, np.where(inside, values[0][np.maximum(source, 0)], values[0]), who)
        else:
            result = {
                "mov": lambda a: a, "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "and": lambda a, b: a & b,
                "shl": lambda a, b: a << b, "shr": lambda a, b: a >> b, "mad": lambda a, b, c: a * b + c,
                "bfe": lambda a, b, c: (a >> b) & ((1 << c) - 1), "popc": lambda a: np.array([int(v).bit_count() for v in a]),
            }[kind](*values)  # fmt: skip
            self._set(to, result, who, 64 if modes[-1].endswith("64") else 32)

    def _access(self, kind: str, modes: list[str], operands: list[str], who: np.ndarray) -> None:
        address, other = (operands[1], operands[0]) if kind == "ld" else operands
        base, _, offset = address.strip("[]").partition("+")
        at = self._value(base.strip()) + int(offset or 0)
        if "global" in modes:
            self._set(other, np.array([self._read(int(a)) if w else 0 for a, w in zip(at, who, strict=True)]), who)
            return
        assert (at[who] % 4 == 0).all() and ((at[who] >= 0) & (at[who] // 4 < len(self.memory))).all(), f"outside of shared memory: {address}"
        at = np.where(who, at // 4, 0)
        if kind == "red":
            {"or": np.bitwise_or, "add": np.add}[modes[1]].at(self.memory, at[who], self._value(other)[who].astype(np.uint32))
            return
        names = [name.strip() for name in other.strip("{}").split(",")] if other.startswith("{") else [other]
        wide = modes[-1] == "b64"
        for k, name in enumerate(names):
            if kind == "ld":
                value = self.memory[at + k].astype(np.int64)
                self._set(name, value | (self.memory[at + 1].astype(np.int64) << 32) if wide else value, who, 64 if wide else 32)
            else:
                value = self._value(name)
                self.memory[at[who] + k] = (value[who] & 0xFFFFFFFF).astype(np.uint32)
                if wide:
                    self.memory[at[who] + 1] = ((value[who] >> 32) & 0xFFFFFFFF).astype(np.uint32)
