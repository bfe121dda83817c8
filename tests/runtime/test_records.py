"""Records as text: what goes in comes out with its types, and nothing else is believed."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gems_runtime import records
from gems_runtime.records import MAX_TEXT, SCHEMA, TRANSIENT_S, Decision, Measurement, canonical, decode, digest, encode

FIELDS = {"kernel": {"name": "k"}, "device": {"name": "d"}, "problem": {"key": {"n": 1}}}
KEY = digest(FIELDS)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
configs = st.dictionaries(st.text(min_size=1, max_size=8), scalars, max_size=5).map(lambda kwargs: {"kwargs": kwargs, "num_warps": 4})


def measurement(**changes: object) -> Measurement:
    given = {"key": KEY, "kernel": "m.k", "config": {"kwargs": {"E": True}}, "fields": FIELDS, "status": "ok", "p50_us": 1.5}
    return Measurement(**{**given, **changes})


def decision(**changes: object) -> Decision:
    config = {"kwargs": {"BLOCK": 64, "EVEN": False, "ACC": None}, "num_warps": 4}
    given = {"key": KEY, "kernel": "m.k", "config": config, "fields": FIELDS, "top": [[config, 2.0], [config, 3.0]], "tried": {"ok": 2}}
    return Decision(**{**given, **changes})


@given(configs)
@settings(max_examples=60)
def test_a_record_comes_back_as_it_went_in_with_its_types(config: dict) -> None:
    for record in (measurement(config=config), decision(config=config)):
        again = decode(encode(record))
        assert again == record
        assert canonical(again.config) == canonical(config)  # True == 1 in Python, so equality alone proves little


def test_true_one_and_none_stay_apart() -> None:
    texts = {encode(measurement(config={"kwargs": {"E": value}})) for value in (True, 1, 1.0, None, False, 0, "1")}
    assert len(texts) == 7


def test_every_truncation_is_refused() -> None:
    text = encode(decision())
    for length in range(len(text)):
        with pytest.raises(ValueError):
            decode(text[:length])


def test_a_thousand_random_changes_of_a_byte_are_refused() -> None:
    text = encode(decision()).encode()
    rng = random.Random(7)
    for _ in range(1000):
        torn = bytearray(text)
        place = rng.randrange(len(torn))
        torn[place] ^= 1 << rng.randrange(8)
        with pytest.raises(ValueError):
            decode(torn.decode("utf-8", errors="replace"))


def forged(**body: object) -> str:
    """A text with a right checksum around a body that encode() would not write."""
    whole = {**json.loads(encode(measurement()))["body"], **body}
    text = canonical(whole)
    return f"{records._HEAD}{text}{records._tail('m', text)}"


@pytest.mark.parametrize(
    "body",
    [
        {"p50_us": -1.0},
        {"p50_us": True},
        {"status": "fine"},
        {"key": "../../etc"},
        {"kernel": "k" * 301},
        {"error": "e" * 201},
        {"details": {"shared_bytes": "many"}},
        {"soft": []},
        {"config": {"BLOCK": 1}},
        {"fields": {}},
        {"surprise": 1},
        {"host": None},
        {"fields": {**FIELDS, "deep": [[[[[[[[[[[[[[1]]]]]]]]]]]]]]}},
        {"fields": {**FIELDS, "deep": [[[[[[[[[[[]]]]]]]]]]]}},
        {"fields": {**FIELDS, "huge": 2**70}},
    ],
)
def test_a_body_of_the_wrong_form_is_refused_with_a_right_checksum(body: dict) -> None:
    assert decode(forged()) == measurement()
    with pytest.raises(ValueError):
        decode(forged(**body))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"schema":1}',
        "[" * 60000,
        '{"a":' * 10000,
        "1" * 60000,
        '{"schema":NaN}',
        '{"schema":Infinity}',
        '{"schema":1e999}',
        " " * (MAX_TEXT + 1),
        "\x80\x04K\x01.",
    ],
)
def test_hostile_text_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text)


def test_another_schema_and_other_spelling_of_the_same_json_are_refused() -> None:
    text = encode(measurement())
    for other in (text.replace(f'"schema":{SCHEMA}', '"schema":1'), text.replace(":", ": "), text + " "):
        with pytest.raises(ValueError):
            decode(other)


def test_what_decode_would_refuse_is_not_encoded() -> None:
    for record in (measurement(p50_us=float("inf")), measurement(error="e" * 201), measurement(kernel="x", fields={"a": 1})):
        with pytest.raises(ValueError):
            encode(record)
    with pytest.raises(ValueError, match="limit"):
        encode(measurement(fields={**FIELDS, "big": "x" * MAX_TEXT}))


def test_bad_luck_expires_and_a_bad_configuration_does_not() -> None:
    assert measurement(status="runtime").is_current(now=TRANSIENT_S - 1)
    assert not measurement(status="runtime").is_current(now=TRANSIENT_S + 1)
    assert measurement(status="compile").is_current(now=10 * TRANSIENT_S)


def test_the_margin_is_the_seconds_distance() -> None:
    assert decision().margin == 0.5
    assert decision(top=[[{"kwargs": {}}, 2.0]]).margin is None
