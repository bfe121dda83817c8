"""What the tuner computes for itself goes to the native kernels, while our operators are switched on."""

from __future__ import annotations

import pytest
import torch

import flag_gems
from gems_ops import register
from gems_ops.register import counters, reset_counters
from gems_runtime import aside, device


def served() -> dict[str, int]:
    return {name: count.served for name, count in counters().items() if count.served}


@pytest.mark.parametrize("is_known", [True, False])
def test_tensor_arithmetic_of_the_runtime_is_native(is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(7, 3 + is_known, device=device.torch_device())
    with flag_gems.use_gems(include=["mul"]):
        if is_known:
            x * x
        reset_counters()
        planned: list[object] = []
        with monkeypatch.context() as patch, aside.natively():
            patch.setattr(register, "plan_call", lambda *call: planned.append(call))
            native = x * x
        assert served() == {} and not planned
        ours = x * x
        assert served() == {"aten::mul.Tensor": 1}, "ours again after it"
    torch.testing.assert_close(native, ours)


def test_blocks_nest_and_end_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), aside.natively(), aside.natively():
        assert aside.is_active()
        raise ZeroDivisionError
    assert not aside.is_active()
