"""ATen's stream of random bits: Philox 4x32-10, a seed and an offset of the generator, one subsequence a thread.

ATen's kernels run with as many threads T as the device holds, or as there are elements in whole blocks of 256. In its
k-th draw a thread t gets four numbers, for the elements 4 k T + t, + T, + 2 T, + 3 T. The kernels here give every
element the same number, in whatever order suits them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
import triton
import triton.language as tl

from gems_ops.op import Declined
from gems_ops.plan import Code, Plan
from gems_runtime import device

ATEN_BLOCK = 256
_lock = threading.Lock()


@triton.jit
def random_bits(seed, block, subsequence):
    """Four tensors of 32 random bits, for tensors of 64-bit subsequences and a 64-bit count of draws before this."""
    low = (subsequence & 0xFFFFFFFF).to(tl.uint32)
    high = ((subsequence >> 32) & 0xFFFFFFFF).to(tl.uint32)
    first = (block & 0xFFFFFFFF).to(tl.uint32) + low * 0
    second = ((block >> 32) & 0xFFFFFFFF).to(tl.uint32) + low * 0
    return tl.philox(seed, first, second, low, high)


@triton.jit
def unit(bits):
    """A number in (0, 1] of 32 random bits, as curand_uniform."""
    return bits.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10


def threads_for(n: int) -> int:
    """T for n elements."""
    return min(triton.cdiv(n, ATEN_BLOCK), device.resident_threads() // ATEN_BLOCK) * ATEN_BLOCK


def advance_for(n: int) -> int:
    """How far a draw of n elements moves the generator's offset."""
    return 4 * triton.cdiv(n, 4 * threads_for(n))


Reserve = Callable[["torch.Generator | None"], "tuple[int, int]"]


def reserver(where: torch.device, n: int) -> Reserve:
    """A function that draws (seed, offset / 4), signed 64-bit numbers, for n elements from a generator or the default one.

    It declines while a graph is being captured, which would replay the same numbers for ever: ATen's kernels read them
    from the device then. Interpreted kernels stand beside the CPU's generator, which is another one (mt19937): it is
    asked for a seed.
    """
    if where.type == "meta":  # compiling for a target with no device: nothing is drawn
        return lambda generator: (0, 0)
    if where.type == "cpu":
        return _seed_from_cpu
    advance, capturing = advance_for(n), device.capture_reader()
    default = None if where.index is None else device.default_generator(where)

    def reserve(generator: torch.Generator | None) -> tuple[int, int]:
        if capturing():
            raise Declined("a graph is being captured")
        if generator is None:
            generator = default or device.default_generator(where)
        elif generator.device.type != where.type:
            raise Declined(f"the generator is of {generator.device}")
        with _lock:
            offset = generator.get_offset()
            generator.set_offset(offset + advance)
        seed = generator.initial_seed()
        return seed - (seed >> 63 << 64), offset >> 2

    return reserve


def _seed_from_cpu(generator: torch.Generator | None) -> tuple[int, int]:
    return torch.empty((), dtype=torch.int64).random_(generator=generator).item(), 0


def plan_reserve(plan: Plan, n: int, where: torch.device) -> tuple[Code, Code]:
    """Add the step that draws a seed and an offset for n elements from the argument `generator`."""
    plan.do("seed, block = {reserve}(generator)", reserve=reserver(where, n))
    return Code("seed"), Code("block")
