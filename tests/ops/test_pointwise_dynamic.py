"""pointwise_dynamic: scalar functions of a user's own, broadcast, promoted and strided."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

import gems_ops
from flag_gems.utils import CodeGenConfig, FunctionSchema, pointwise_dynamic
from gems_runtime import device

HERE = device.torch_device()


@pointwise_dynamic(is_tensor=[True, True, False], promotion_methods=[(0, 1, "DEFAULT")])
@triton.jit
def scaled_sum(x, y, alpha):
    return x + y * alpha


@pointwise_dynamic(promotion_methods=[(0, 1, "DEFAULT"), (0, 1, "ALWAYS_BOOL")])
@triton.jit
def larger(x, y):
    return tl.where(x > y, x, y), x > y


@pointwise_dynamic(promotion_methods=[(0, "INT_TO_FLOAT")])
@triton.jit
def root(x):
    return tl.sqrt(x.to(tl.float32))


@pointwise_dynamic(is_tensor=[True, False], dtypes=[None, str], promotion_methods=[(0, "DEFAULT")])
@triton.jit
def rounded(x, how):
    if how == "up":
        return tl.ceil(x)
    else:
        return tl.floor(x)


def sample(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 10
    return x.to(HERE, dtype)


def test_the_public_names_are_one_function() -> None:
    assert gems_ops.pointwise_dynamic is pointwise_dynamic


@pytest.mark.parametrize("shapes", [((3, 5), (5,)), ((4, 1), (1, 6)), ((), (7,)), ((2, 3, 4), (3, 1)), ((0, 3), (3,))], ids=str)
def test_arguments_broadcast(shapes: tuple) -> None:
    x, y = sample(*shapes[0]), sample(*shapes[1], seed=1)
    torch.testing.assert_close(scaled_sum(x, y, 2.5), x + y * 2.5)


def test_operands_of_any_strides_and_results_of_atens() -> None:
    for x in (sample(6, 8).t(), sample(8, 12)[:, ::2], sample(1, 6).expand(8, 6)):
        y = sample(8, 6, seed=1)
        expected = x + y * 0.5
        got = scaled_sum(x, y, 0.5)
        torch.testing.assert_close(got, expected)
        assert got.stride() == expected.stride()


@pytest.mark.parametrize("kinds", [(torch.int32, torch.float32), (torch.int8, torch.int64), (torch.float32, torch.float64)], ids=str)
def test_results_promote(kinds: tuple[torch.dtype, torch.dtype]) -> None:
    x, y = sample(9, dtype=kinds[0]), sample(9, dtype=kinds[1], seed=1)
    got = scaled_sum(x, y, 3)
    assert got.dtype == torch.promote_types(*kinds)
    torch.testing.assert_close(got, x + y * 3)
    assert root(sample(4, dtype=torch.int64)).dtype == torch.float32


def test_a_fraction_beside_float64_keeps_its_digits() -> None:
    x, y = sample(9, dtype=torch.float64), sample(9, dtype=torch.float64, seed=1)
    torch.testing.assert_close(scaled_sum(x, y, 0.1), x + y * 0.1, rtol=1e-15, atol=0)


def test_several_results_and_given_ones() -> None:
    x, y = sample(5, 7), sample(7, seed=1)
    values, where = larger(x, y)
    assert torch.equal(values, torch.maximum(x, y)) and torch.equal(where, x > y)
    own = torch.empty(7, 5, dtype=torch.float64, device=HERE).t()
    again, where = larger(x, y, out0=own)
    assert again is own and torch.equal(own, torch.maximum(x, y).double()) and where.dtype == torch.bool


def test_text_arguments_are_compiled_in() -> None:
    x = sample(5)
    assert torch.equal(rounded(x, "up"), x.ceil()) and torch.equal(rounded(x, "down"), x.floor())


def test_one_running_index_gives_the_same() -> None:
    line = pointwise_dynamic(scaled_sum.scalar, is_tensor=[True, True, False], promotion_methods=[(0, 1, "DEFAULT")],
                             config=CodeGenConfig(max_tile_size=16, prefer_1d_tile=True))  # fmt: skip
    x, y = sample(40, 6).t(), sample(40, seed=1)
    assert torch.equal(line(x, y, 2.0), scaled_sum(x, y, 2.0))


def test_instantiate_neither_broadcasts_nor_allocates() -> None:
    x, out = sample(3, 4), torch.empty(3, 4, device=HERE)
    assert root.instantiate(2)(x, out0=out) is out
    for wrong in (lambda: root.instantiate(2)(x), lambda: root.instantiate(1)(x, out0=out), lambda: root.instantiate(2)(x, out0=out[:1])):
        with pytest.raises(ValueError, match="instantiate"):
            wrong()


def test_wrong_calls_say_what_is_wrong() -> None:
    x = sample(3)
    with pytest.raises(TypeError, match="Pointwise: Tensor, Tensor, number -> Tensor, got"):
        scaled_sum(x, 2.0, 1.0)
    with pytest.raises(TypeError, match="out1"):
        root(x, out1=x)
    with pytest.raises(ValueError, match="the result is"):
        root(x, out0=sample(4))
    with pytest.raises(TypeError, match="complex64"):
        root(x.to(torch.complex64))


def test_a_schema_answers_for_every_argument() -> None:
    schema = FunctionSchema(is_tensor=[True, False, True, False], dtypes=[None, float, None, bool], promotion_methods=[(0, 2, "DEFAULT")])
    assert (schema.num_inputs(), schema.num_outputs(), schema.num_input_tensors(), schema.num_non_tensor_args()) == (4, 1, 2, 2)
    assert [schema.input_index(i) for i in range(4)] == [0, 0, 1, 1] and schema.input_type(1) is float
    assert schema.signature(outputs_in_arg=True) == "Pointwise: Tensor, float, Tensor, bool, Tensor -> Tensor"


@pytest.mark.parametrize("fields, error", [
    (dict(num_inputs=1), ValueError),
    (dict(promotion_methods=[(0, "DEFAULT")]), ValueError),
    (dict(num_inputs=2, is_tensor=[True], promotion_methods=[(0, "DEFAULT")]), AssertionError),
    (dict(is_tensor=[True], dtypes=[None, float], promotion_methods=[(0, "DEFAULT")]), AssertionError),
    (dict(is_tensor=[1], promotion_methods=[(0, "DEFAULT")]), AssertionError),
    (dict(num_inputs=1, promotion_methods=[]), AssertionError),
    (dict(num_inputs=1, num_outputs=2, promotion_methods=[(0, "DEFAULT")]), AssertionError),
    (dict(num_inputs=1, promotion_methods=[(1, "DEFAULT")]), AssertionError),
    (dict(num_inputs=1, promotion_methods=[(0, "SOMETIMES")]), AssertionError),
])  # fmt: skip
def test_a_schema_that_contradicts_itself_is_refused(fields: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        FunctionSchema(**fields)
