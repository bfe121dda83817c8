"""LibEntry against stock Triton: the same call puts the same function, parameters and configuration to the driver."""

from __future__ import annotations

import launch_zoo as zoo
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gems_runtime import LibEntry
from tools.fake_cuda import FakeCuda

STORAGE = torch.zeros(4096, dtype=torch.uint8)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn)
INTS = (0, 1, 2, 15, 16, 17, -1, -16, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**40, 2**63 - 1, 2**63, -(2**63), 2**64 - 16)
# No shrinking: an example compiles for up to a second, and is small as it is.
quick = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """A tensor or parameter of some type whose data starts at a multiple of 16 or not."""
    dtype = draw(st.sampled_from(DTYPES))
    offset = draw(st.sampled_from((0, 0, 1, 2, 16)))
    tensor = STORAGE[: 16 * 64].view(dtype)[offset:][: draw(st.sampled_from((0, 1, 20)))]
    as_parameter = draw(st.booleans()) and tensor.is_floating_point()
    return torch.nn.Parameter(tensor, requires_grad=False) if as_parameter else tensor


grids = st.sampled_from(
    [(1,), (7, 2), (3, 4, 5), [6], [2, 3], (0,), (65536, 2), lambda meta: (abs(int(meta["BLOCK"])) + 1, 2), lambda meta: [len(meta)]]
)
options = st.fixed_dictionaries({}, optional={"num_warps": st.sampled_from((1, 8)), "num_stages": st.just(2)})


def by_name(draw: st.DrawFn, names: tuple[str, ...], values: tuple[object, ...]) -> tuple[tuple, dict]:
    """Pass some arguments by position and the rest by keyword in some order."""
    split = draw(st.integers(0, len(values)))
    pairs = draw(st.permutations(list(zip(names, values))[split:]))
    return values[:split], dict(pairs)


PLAIN = LibEntry(zoo.plain)


@quick
@given(st.data())
def test_plain_calls(fake_cuda: FakeCuda, data: st.DataObject) -> None:
    draw = data.draw
    values = (draw(tensors()), draw(tensors()), draw(st.sampled_from(INTS)), draw(st.sampled_from(INTS)))
    block = draw(st.sampled_from((16, 1, 1.0, True, 0, 0.0, -0.0, -1, -2)))
    args, kwargs = by_name(draw, tuple(PLAIN.arg_names), (*values, block))
    grid = draw(grids)
    if grid == (0,):
        # Nothing reaches the driver, from either.
        before = fake_cuda.launch_count
        PLAIN[grid](*args, **kwargs)
        PLAIN.fn[grid](*args, **kwargs)
        assert fake_cuda.launch_count == before
        return
    zoo.assert_launches_as_stock(fake_cuda, PLAIN, grid, args, {**kwargs, **draw(options)})


OPTIONAL = LibEntry(zoo.optional)


@quick
@given(st.data())
def test_defaults_none_floats_and_bools(fake_cuda: FakeCuda, data: st.DataObject) -> None:
    draw = data.draw
    kwargs = draw(
        st.fixed_dictionaries(
            {"bias": st.one_of(st.none(), tensors(), st.sampled_from((0, 3, 16)))},
            optional={
                "scale": st.sampled_from((1.0, -0.0, float("inf"), float("nan"), 3, True, None)),
                "MODE": st.sampled_from(("a", "b", 1, 1.0, True, None, (1, 2), (1, 2.0))),
                "WIDE": st.sampled_from((tl.float32, tl.int64, False, None)),
            },
        )
    )
    zoo.assert_launches_as_stock(fake_cuda, OPTIONAL, (2,), (draw(tensors()),), {**kwargs, **draw(options)})


ANNOTATED = LibEntry(zoo.annotated)


@quick
@given(st.data())
def test_annotated_and_unspecialised_arguments(fake_cuda: FakeCuda, data: st.DataObject) -> None:
    draw = data.draw
    small = st.sampled_from((0, 1, 16, 17, 2**31))
    values = (draw(tensors()), draw(small), draw(small), draw(small))
    floats = (draw(st.sampled_from((0.5, 1.0, 3, True, 1e-7, -0.0, float("inf")))), draw(st.sampled_from((0.1, -0.0, 1e300, 2**63))))
    zoo.assert_launches_as_stock(fake_cuda, ANNOTATED, (1,), values + floats, {})


@pytest.fixture
def tuned(fake_cuda: FakeCuda) -> LibEntry:
    """A fresh entry over the tuned kernel, all of whose tuning is forgotten."""
    entry = LibEntry(zoo.tuned)
    entry.clear()
    return entry


def test_autotuned_with_heuristics_and_callable_grids(fake_cuda: FakeCuda, tuned: LibEntry) -> None:
    x, y = STORAGE[:64].view(torch.float32), STORAGE[64:128].view(torch.float32)
    for n in (64, 100):
        for m in (128, 100, 192):
            for grid in (lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]), 2), lambda meta: (triton.cdiv(n, meta["BLOCK"]),)):
                zoo.assert_launches_as_stock(fake_cuda, tuned, grid, (x, y, n, m, 1), {})
                zoo.assert_launches_as_stock(fake_cuda, tuned, grid, (x, y), {"stride": 8, "m": m, "n": n})
    assert tuned.best_config is zoo.tuned.best_config


@pytest.mark.parametrize("count", [0, 19, 58])
def test_many_arguments(fake_cuda: FakeCuda, count: int, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    names = [f"a{i}" for i in range(count)]
    path = tmp_path / f"wide_{count}.py"
    path.write_text(f"import triton\n\n@triton.jit\ndef wide({', '.join(names)}):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = LibEntry(__import__(path.stem).wide)
    values = [(STORAGE, i, 0.5 * i)[i % 3] for i in range(count)]
    zoo.assert_launches_as_stock(fake_cuda, entry, (2, 3), tuple(values), {})
