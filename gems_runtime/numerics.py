"""The gate no configuration passes with a wrong answer: what it leaves in the arguments, against the default's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from gems_runtime import device
from gems_runtime.bench import Launch

# Share of an element plus the tensor's root mean square that two configurations may differ by: they add up in another
# order, and tf32 and bf16 round to 2**-10 and 2**-8. A wrong tile is wrong by the whole root mean square.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-3, torch.float16: 5e-3, torch.bfloat16: 2e-2}
_COARSE = 0.13  # one step of an 8-bit float


class Gate:
    """The arguments as they were, and as the default configuration left them."""

    def __init__(self, named: Mapping[str, object]) -> None:
        self._tensors = {name: t for name, t in named.items() if isinstance(t, torch.Tensor)}
        self._before = _copy(self._tensors)
        self._want: dict[str, torch.Tensor] | None = None

    def passes(self, launch: Launch, same: Callable[[torch.Tensor, torch.Tensor], bool] | None = None) -> bool:
        """Run on the arguments as they were. The first launch is the reference that all later ones must agree with, or
        be the `same` as."""
        self.restore()
        launch.before()
        launch.run()
        try:
            if self._want is None:
                self._want = _copy(self._tensors)
            return all((same or agree)(t, self._want[name]) for name, t in self._tensors.items())
        finally:
            launch.after()  # may restore arguments itself, so only now

    def restore(self) -> None:
        """Give every argument the value it had when the gate was made."""
        for name, tensor in self._tensors.items():
            if not _identical(tensor, self._before[name]):
                tensor.copy_(self._before[name])


def fits(named: Mapping[str, object], besides: int = 0) -> bool:
    """True if the device has room for the copies that a Gate makes, and for so many bytes besides."""
    tensors = [t for t in named.values() if isinstance(t, torch.Tensor)]
    if not tensors:
        return True
    # two copies, and two float32 images of the largest tensor while it is compared
    needed = 2 * sum(t.nbytes for t in tensors) + 8 * max(t.numel() for t in tensors)
    return device.has_room(needed + besides)


def agree(got: torch.Tensor, want: torch.Tensor) -> bool:
    """True if no element differs by more than rounding; NaN agrees with NaN, infinities with their own sign."""
    if got.is_complex():
        return agree(torch.view_as_real(got), torch.view_as_real(want))
    if not got.is_floating_point():
        return torch.equal(got, want)
    tolerance = _TOLERANCE.get(got.dtype, _COARSE)
    wide = torch.promote_types(got.dtype, torch.float32) if got.dtype.itemsize > 1 else torch.float32
    got, want = got.to(wide), want.to(wide)
    finite = want[want.isfinite()]
    scale = finite.square().mean().sqrt().item() if finite.numel() else 0.0
    return torch.allclose(got, want, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def same_bits(got: torch.Tensor, want: torch.Tensor) -> bool:
    """True if the bits are the same, of NaN as well."""
    if got.is_complex():
        return same_bits(torch.view_as_real(got), torch.view_as_real(want))
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[got.dtype.itemsize]
    return torch.equal(got.view(integers), want.view(integers))


def _identical(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.is_floating_point() and a.dtype.itemsize == 1:
        a, b = a.view(torch.uint8), b.view(torch.uint8)
    return torch.equal(a, b)


def _copy(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
