"""What the store keeps: one timed configuration (Measurement), and the winner of a problem (Decision). JSON text only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TypeAlias

import xxhash

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"

SCHEMA = 3
# A decision with its key fields is about 3 KB; anything near these limits was not written by us.
MAX_TEXT = 64 * 1024
MAX_DEPTH = 12
STATUSES = frozenset({"ok", "oor", "compile", "ptxas", "runtime", "timeout", "numerics"})
# May succeed another day: a measurement with one of these is not believed for ever.
TRANSIENT = frozenset({"runtime", "timeout"})
TRANSIENT_S = 7 * 24 * 3600.0

_KEY = re.compile(r"[0-9a-f]{32}")


def canonical(value: Json) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. True and 1 differ, and so do 1 and 1.0."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Json) -> str:
    """xxh3-128 of the canonical text, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(canonical(value).encode())


def _is_key(value: object) -> bool:
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_time(value: object) -> bool:
    return value is None or (_is_number(value) and value >= 0)


def _is_text(limit: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and len(value) <= limit


def _is_counts(value: object) -> bool:
    return isinstance(value, dict) and all(k in STATUSES and type(n) is int and n >= 0 for k, n in value.items())


def _is_ranking(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(
        isinstance(row, list) and len(row) == 2 and isinstance(row[0], dict) and _is_number(row[1]) for row in value
    )


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def _is_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_config(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("kwargs"), dict)


def _is_fields(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(part), dict) for part in ("kernel", "device", "problem"))


def _checked(check: Callable[[object], bool], **default: object) -> object:
    return field(metadata={"check": check}, **default)


@dataclass(frozen=True)
class Measurement:
    """One configuration of one kernel on one exact problem, timed once, or the way in which it failed."""

    key: str = _checked(_is_key)
    kernel: str = _checked(_is_text(300))
    config: dict[str, Json] = _checked(_is_config)
    # what `key` is the digest of, so that a stored entry can be compared with a live call field by field
    fields: dict[str, Json] = _checked(_is_fields)
    status: str = _checked(lambda s: s in STATUSES)
    p50_us: float | None = _checked(_is_time, default=None)
    p20_us: float | None = _checked(_is_time, default=None)
    p80_us: float | None = _checked(_is_time, default=None)
    error: str = _checked(_is_text(200), default="")
    # what is known of it besides: n (launches timed), registers, spills, shared_bytes, compile_ms
    details: dict[str, Json] = _checked(_is_numbers, default_factory=dict)
    # what may matter but does not invalidate: torch, driver, CUDA
    soft: dict[str, Json] = _checked(_is_dict, default_factory=dict)
    time: float = _checked(_is_number, default=0.0)
    host: str = _checked(_is_text(100), default="")

    def is_current(self, now: float) -> bool:
        """False once a failure that may have been bad luck is old enough to be tried again."""
        return self.status not in TRANSIENT or now - self.time < TRANSIENT_S


@dataclass(frozen=True)
class Decision:
    """The configuration to use for one problem and one set of candidates."""

    key: str = _checked(_is_key)
    kernel: str = _checked(_is_text(300))
    config: dict[str, Json] = _checked(_is_config)
    fields: dict[str, Json] = _checked(_is_fields)
    # the fastest candidates as [config, p50 in us], best first
    top: list[Json] = _checked(_is_ranking)
    # how many candidates ended in each status
    tried: dict[str, int] = _checked(_is_counts)
    source: str = _checked(_is_text(40), default="tuned")
    # as of a measurement; and which measurements it was made from, whether the winner is bitwise the default
    soft: dict[str, Json] = _checked(_is_dict, default_factory=dict)
    time: float = _checked(_is_number, default=0.0)
    host: str = _checked(_is_text(100), default="")

    @property
    def margin(self) -> float | None:
        """How much slower the second is than the winner, as a fraction; None if there is no second."""
        return self.top[1][1] / self.top[0][1] - 1 if len(self.top) > 1 and self.top[0][1] else None


Record: TypeAlias = Measurement | Decision
_KINDS: Mapping[str, type[Measurement] | type[Decision]] = {"m": Measurement, "d": Decision}


def kind_of(record: Record) -> str:
    """The letter that starts the record's name in the store."""
    return "d" if isinstance(record, Decision) else "m"


def name_of(record: Record) -> str:
    """The record's name in the store."""
    return f"{kind_of(record)}/{record.key}"


def encode(record: Record) -> str:
    """The text that `decode` reads back. Raises ValueError for a record that `decode` would refuse."""
    body = vars(record)  # not asdict: its deep copy would be half of the time of a write
    text = canonical(body)
    text = f"{_HEAD}{text}{_tail(kind_of(record), text)}"
    _check_body(type(record), body)
    if len(text) > MAX_TEXT:
        raise ValueError(f"a record of {len(text)} characters; the limit is {MAX_TEXT}")
    return text


def decode(text: str) -> Record:
    """The record that `encode` wrote as this text. Raises ValueError for any other text."""
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise ValueError("not a text of acceptable length")
    place = len(text) - _TAIL_LENGTH
    body_text, tail = text[len(_HEAD) : place], text[max(place, 0) :]
    kind = tail[_KIND_AT : _KIND_AT + 1]
    if kind not in _KINDS or not text.startswith(_HEAD):
        raise ValueError("not a record of this schema")
    # over the text itself: making the canonical text anew to compare with took half of the time of a read
    if tail != _tail(kind, body_text):
        raise ValueError("the checksum does not fit")
    return from_body(kind, parse(body_text))


def from_body(kind: str, body: Json) -> Record:
    """The record of kind `d` or `m` with these fields. Raises ValueError for what is no such record."""
    _check_body(_KINDS[kind], body)
    return _KINDS[kind](**body)


def verify_key(record: Record) -> None:
    """Raise ValueError if the key is not that of the record's fields, as in every record that was not made by hand."""
    if digest(record.fields) != record.key:
        raise ValueError(f"the key of {name_of(record)} is not that of its fields")


# A record is {"body":...,"checksum":"...","kind":"d","schema":2}: its keys in order, and all but the body of fixed length.
_HEAD = '{"body":'


def _tail(kind: str, body_text: str) -> str:
    checksum = xxhash.xxh3_128_hexdigest(f"{kind}{body_text}".encode(errors="surrogatepass"))
    return f',"checksum":"{checksum}","kind":"{kind}","schema":{SCHEMA}}}'


_TAIL_LENGTH = len(_tail("d", ""))
_KIND_AT = _tail("d", "").index('"d"') + 1


def _check_body(cls: type, body: object) -> None:
    checks = _CHECKS[cls]
    if not isinstance(body, dict) or body.keys() != checks.keys():
        raise ValueError(f"not the fields of a {cls.__name__}")
    for name, check in checks.items():
        if not check(body[name]):
            raise ValueError(f"{name} of a {cls.__name__} is not as it should be: {str(body[name])[:60]!r}")


# Asking dataclasses for them took a quarter of a read.
_CHECKS = {cls: {f.name: f.metadata["check"] for f in fields(cls)} for cls in _KINDS.values()}


def parse(text: str, depth: int = MAX_DEPTH) -> Json:
    """JSON with neither NaN nor huge numbers nor deep nesting. Raises ValueError for anything else."""
    return _parsed(_DECODER, text, depth)


def parse_foreign(text: str) -> Json:
    """As `parse`, with None for NaN and infinities, which other tools write."""
    return _parsed(_FOREIGN_DECODER, text, MAX_DEPTH)


def _parsed(decoder: json.JSONDecoder, text: str, depth: int) -> Json:
    try:
        value, end = decoder.raw_decode(text := text.lstrip())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text[end:].strip(" \t\n\r"):
        raise ValueError("more than one JSON value")
    if _is_deep(value, depth):
        raise ValueError("nested too deeply")
    return value


def _is_deep(value: Json, depth: int) -> bool:
    """True if lists and dicts lie in each other more than `depth` deep."""
    level: list[Json] = [value]
    for _ in range(depth):
        below: list[Json] = []
        for outer in level:
            if type(outer) is dict:
                below += outer.values()
            elif type(outer) is list:
                below += outer
        level = below
    return bool(level)


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _small_int(text: str) -> int:
    # 20 digits hold every 64-bit value; int() of a megabyte of digits would take minutes
    if len(text) > 20:
        raise ValueError("an integer of more than 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number out of range")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=_small_int, parse_float=_finite)
_FOREIGN_DECODER = json.JSONDecoder(parse_constant=lambda name: None, parse_int=_small_int, parse_float=_finite)
