"""ATen's stream of random bits: Philox 4x32-10, a seed and an offset of the generator, one subsequence a thread.

ATen's kernels run with as many threads T as the device holds, or as there are elements in whole blocks of 256. In its
k-th draw a thread t gets four numbers, for the elements 4 k T + t, + T, + 2 T, + 3 T. The kernels here give every
element the same number, in whatever order suits them.
"""

from __future__ import annotations

import threading

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


def reserve(generator: torch.Generator | None, where: torch.device, advance: int) -> tuple[int, int]:
    """(seed, offset / 4) for one operator, both as signed 64-bit numbers; the generator goes on by `advance`.

    Interpreted kernels run beside the CPU's generator, which is another one (mt19937): it is asked for a seed.
    """
    generator = generator or device.default_generator(where)
    if generator.device.type == "cpu":
        return torch.empty((), dtype=torch.int64).random_(generator=generator).item(), 0
    with _lock:
        offset = generator.get_offset()
        generator.set_offset(offset + advance)
    seed = generator.initial_seed()
    return seed - (seed >> 63 << 64), offset >> 2


def _on_same_device(generator: torch.Generator | None, where: torch.device) -> bool:
    return generator is None or generator.device.type == where.type


def plan_reserve(plan: Plan, n: int, where: torch.device) -> tuple[Code, Code]:
    """Add the steps that draw a seed and an offset for n elements from the argument `generator`.

    A graph that is being captured would replay the same numbers for ever: ATen's kernels read them from the device then.
    """
    if where.type == "meta":  # compiling for a target with no device: nothing is drawn
        plan.do("seed = block = 0")
        return Code("seed"), Code("block")
    if where.type == "cuda":
        plan.do(
            "if {capturing}(): raise {declined}('a graph is being captured')",
            capturing=device.is_capturing, declined=Declined,
        )  # fmt: skip
    plan.do(
        "if not {same}(generator, {where}): raise {declined}('the generator is of another device')",
        same=_on_same_device, where=where, declined=Declined,
    )  # fmt: skip
    plan.do("seed, block = {reserve}(generator, {where}, {advance})", reserve=reserve, where=where, advance=advance_for(n))
    return Code("seed"), Code("block")
