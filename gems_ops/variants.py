"""From one declared overload to the overloads that serve it: functional, out= and in-place, found in the schemas."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property

import torch

from gems_ops.op import Op


class Kind(enum.Enum):
    FUNCTIONAL = "functional"
    OUT = "out"
    IN_PLACE = "in-place"


@dataclass(frozen=True)
class Form:
    """One overload to register, and how it calls the declared implementation."""

    op: Op
    kind: Kind
    overload: torch._ops.OpOverload

    @property
    def name(self) -> str:
        """ "aten::mul.out": unique among all forms."""
        return self.overload._name

    @cached_property
    def arguments(self) -> list[torch.Argument]:
        """The schema's arguments without those that are only written."""
        return [a for a in self.overload._schema.arguments if not a.is_out]

    @cached_property
    def outputs(self) -> list[torch.Argument]:
        """The schema's out= arguments."""
        return [a for a in self.overload._schema.arguments if a.is_out]


def _overloads(packet_name: str) -> list[torch._ops.OpOverload]:
    packet = getattr(torch.ops.aten, packet_name, None)
    return [getattr(packet, name) for name in packet.overloads()] if packet is not None else []


def _inputs(overload: torch._ops.OpOverload) -> list[tuple[str, str]]:
    return [(a.name, str(a.type)) for a in overload._schema.arguments if not a.is_out]


def _writes_input(overload: torch._ops.OpOverload) -> bool:
    first = overload._schema.arguments[0]
    return first.alias_info is not None and first.alias_info.is_write and not first.is_out


def forms(op: Op) -> list[Form]:
    """Every overload that a declaration serves. The declared one comes first."""
    declared = op.overload
    if any(a.is_out for a in declared._schema.arguments):
        return [Form(op, Kind.OUT, declared)]
    if declared._schema.arguments and _writes_input(declared):
        return [Form(op, Kind.IN_PLACE, declared)]
    found = [Form(op, Kind.FUNCTIONAL, declared)]
    if not op.name.startswith("aten::"):
        return found
    base = op.name.removeprefix("aten::").split(".")[0]
    inputs = _inputs(declared)
    if op.writes_out:
        outs = (o for o in _overloads(base) if any(a.is_out for a in o._schema.arguments))
        found += [Form(op, Kind.OUT, o) for o in outs if _inputs(o) == inputs]
    if op.in_place:
        found += [Form(op, Kind.IN_PLACE, o) for o in _overloads(base + "_") if _writes_input(o) and _inputs(o) == inputs]
    return found
