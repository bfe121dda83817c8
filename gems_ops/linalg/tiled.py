"""The tuned matrix product: one program for one tile of the result, the whole of K in its loop."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from triton import Config

from gems_ops.linalg.operands import Product, float32_precision, input_precision
from gems_ops.linalg.tile import accumulate, load_tile, store_tile
from gems_ops.plan import Code, Plan, Planned
from gems_ops.pointwise.moves import move
from gems_runtime import LibEntry, device, libtuner


def _config(block_m: int, block_n: int, block_k: int, num_warps: int, num_stages: int) -> Config:
    blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8}
    return Config(blocks, num_warps=num_warps, num_stages=num_stages)


# The first is what any target can run: its float32 stages fit the 64 KiB of a gfx942 workgroup.
_CONFIGS = [
    _config(64, 128, 32, num_warps=4, num_stages=3),
    _config(128, 256, 64, num_warps=8, num_stages=3),
    _config(128, 256, 64, num_warps=8, num_stages=4),
    _config(256, 128, 64, num_warps=8, num_stages=3),
    _config(128, 128, 64, num_warps=8, num_stages=3),
    _config(128, 128, 64, num_warps=4, num_stages=4),
    _config(128, 128, 32, num_warps=4, num_stages=4),
    _config(64, 256, 64, num_warps=4, num_stages=4),
    _config(128, 64, 64, num_warps=4, num_stages=4),
    _config(64, 128, 64, num_warps=4, num_stages=4),
    _config(64, 64, 64, num_warps=4, num_stages=4),
    _config(64, 32, 128, num_warps=4, num_stages=4),
    _config(32, 128, 64, num_warps=4, num_stages=4),
    _config(32, 64, 128, num_warps=4, num_stages=4),
    # For a K of a few steps, which leaves further stages empty: several programs in one multiprocessor then overlap.
    _config(128, 256, 64, num_warps=8, num_stages=2),
    _config(128, 128, 64, num_warps=8, num_stages=2),
    _config(128, 128, 64, num_warps=4, num_stages=2),
    _config(128, 128, 128, num_warps=8, num_stages=1),
    _config(128, 64, 64, num_warps=4, num_stages=2),
    _config(64, 128, 64, num_warps=4, num_stages=2),
]
# Without tensor cores. 4096 x 4096 x 4096: 2812 us with 128 x 128 x 16, 2868 with the best of the others, cuBLAS 2681;
# 128 of 512 x 512 x 128 with a as it lies: 228 with 64 x 64 x 32, 230 to 330 with others, cuBLAS 227 (float32, H100, 2026-11-27).
_EXACT_CONFIGS = [
    _config(128, 128, 16, num_warps=4, num_stages=3),
    _config(128, 128, 32, num_warps=8, num_stages=3),
    _config(128, 64, 16, num_warps=4, num_stages=3),
    _config(64, 64, 32, num_warps=4, num_stages=3),
]
_MOST_TRIALS = 11
# Shared memory of one block. The interpreter has no limit; a target not named here gets that of sm_86 and sm_89.
_SHARED_KIB = {"cuda:80": 163, "cuda:90": 227, "cuda:100": 227, "hip:gfx942": 64, "hip:gfx950": 160, "cpu": 1 << 20}
_SHARED_KIB_ELSEWHERE = 99
_FEWEST_TILES = 66  # half of an H200's 132 multiprocessors
_SHORT_K = 256  # the longest K of a few steps
# Rows of a for which turning c round pays, and columns of c for which turning a does: 8 bytes are moved for 2 * M, or
# 2 * N, operations. Of 512 columns a copy was a tenth of the product and won 0.07 of it.
_ROWS_TO_TURN, _COLUMNS_TO_TURN = 256, 1024


def _prune(configs: list[Config], named_args: dict[str, object], **kwargs: object) -> list[Config]:
    """The configurations worth timing for one shape: blocks that fit it, and enough tiles to fill a GPU.

    The first is the one to take untimed.
    """
    args = {**named_args, **kwargs}
    # Sizes that share a decision must have the same candidates.
    m, n, k, batch = (triton.next_power_of_2(args[name]) for name in ("M", "N", "K", "n_batch"))
    itemsize = args["a_ptr"].element_size()
    arch = device.identity().arch
    shared = 1024 * _SHARED_KIB.get(arch, _SHARED_KIB_ELSEWHERE)
    exact = itemsize == 4 and args["INPUT_PRECISION"] == "ieee"

    def fits(c: Config) -> bool:
        if c in _EXACT_CONFIGS and not exact:
            return False
        bm, bn, bk = c.kwargs["BLOCK_M"], c.kwargs["BLOCK_N"], c.kwargs["BLOCK_K"]
        if bm >= 2 * max(m, 32) or bn >= 2 * max(n, 32):
            return False
        if exact and bm * bn * max(bk, 64) > 128 * 128 * 64:  # no tensor cores: operands live in registers too
            return False
        if k > _SHORT_K and c.num_stages < 3:
            return False
        if k <= _SHORT_K and bm * bn > 64 * 64 and c.num_stages > max(3, k // bk + 1):
            return False
        # AMD's pipeline holds its last stage in registers.
        stages = c.num_stages - arch.startswith("hip")
        return (bm + bn) * bk * itemsize * stages <= shared

    def tiles(c: Config) -> int:
        return batch * -(-m // c.kwargs["BLOCK_M"]) * -(-n // c.kwargs["BLOCK_N"])

    fitting = [c for c in sorted(configs, key=_EXACT_CONFIGS.__contains__, reverse=True) if fits(c)] or configs[:1]
    # Large blocks first where they fill the device; where nothing does, the smallest blocks.
    filling = [c for c in fitting if tiles(c) >= _FEWEST_TILES]
    ranked = sorted(filling, key=tiles) if filling else sorted(fitting, key=tiles, reverse=True)
    return ranked[:_MOST_TRIALS]


@LibEntry
@libtuner(
    configs=[*_CONFIGS, *_EXACT_CONFIGS],
    key=["M", "N", "K", "n_batch", "LAYOUT", "INPUT_PRECISION"],
    # Prompts and caches have every length: sizes up to the same power of two share one decision.
    strategy=dict.fromkeys(("M", "N", "K", "n_batch"), "log"),
    # a server that may not tune: a prompt of an untuned length takes the next longer one's configuration
    transfer={"M": "up"},
    prune_configs_by={"early_config_prune": _prune},
)
@triton.heuristics(
    {
        "EVEN_MN": lambda args: args["M"] % args["BLOCK_M"] == 0 and args["N"] % args["BLOCK_N"] == 0,
        "EVEN_K": lambda args: args["K"] % args["BLOCK_K"] == 0,
    }
)
@triton.jit
def _tiled_matmul_kernel(
    a_ptr,
    c_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    n_batch,
    stride_ab,
    stride_am,
    stride_ak,
    stride_cb,
    stride_ck,
    stride_cn,
    stride_ob,
    stride_om,
    stride_on,
    stride_ib,
    stride_im,
    stride_in,
    alpha,
    beta,
    LAYOUT: tl.constexpr,  # which operands have unit stride along K: read by the tuner, as n_batch is
    INPUT_PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    EVEN_MN: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    batch = (tl.program_id(0) // (tiles_m * tiles_n)).to(tl.int64)
    tile = tl.program_id(0) % (tiles_m * tiles_n)
    # Tiles run down GROUP_M rows before moving right, so that programs of one wave share operands in L2.
    first_m = tile // (GROUP_M * tiles_n) * GROUP_M
    group_m = min(tiles_m - first_m, GROUP_M)
    tile_m = first_m + tile % (GROUP_M * tiles_n) % group_m
    tile_n = tile % (GROUP_M * tiles_n) // group_m

    # int64: rows * stride passes 2**31 at 50k x 50k
    rows = tile_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K).to(tl.int64)
    a_ptrs = a_ptr + batch * stride_ab + rows[:, None] * stride_am + ks[None, :] * stride_ak
    c_ptrs = c_ptr + batch * stride_cb + ks[:, None] * stride_ck + cols[None, :] * stride_cn
    a_step = tl.full((), BLOCK_K, tl.int64) * stride_ak
    c_step = tl.full((), BLOCK_K, tl.int64) * stride_ck

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        a = load_tile(a_ptrs, rows < M, ks < K - k, EVEN_MN, EVEN_K)  # [BLOCK_M, BLOCK_K]
        c = load_tile(c_ptrs, ks < K - k, cols < N, EVEN_K, EVEN_MN)  # [BLOCK_K, BLOCK_N]
        acc = accumulate(a, c, acc, INPUT_PRECISION)
        a_ptrs += a_step
        c_ptrs += c_step

    store_tile(
        acc,
        rows[:, None],
        cols[None, :],
        (rows < M)[:, None] & (cols < N)[None, :],
        out_ptr + batch * stride_ob,
        stride_om,
        stride_on,
        bias_ptr,
        batch * stride_ib,
        stride_im,
        stride_in,
        alpha,
        beta,
    )


def _is_exact() -> bool:
    """True while float32 products are not rounded to tf32, which the user may change between calls."""
    return float32_precision() == "ieee"


def _turner(p: Product, rows: int, strides: tuple[int, int]) -> Planned:
    """Copies an operand of `rows` rows that are dense along K, with these (batch, row) strides: [batch, K, rows], dense along the rows.

    Without tensor cores every lane reads a row of a, or a column of c, of its own from shared memory, and where those lie
    along K, all from one bank. 4096 x 4096 x 4096 with a transposed weight: 5960 us as it lies, 3461 with c turned, 3165
    with both, copies included; cuBLAS 2738 (H100, 2026-11-27). Tensor cores that round to tf32 want both along K.
    ATen's copy takes three times what the memory does.
    """
    plan = Plan("src")
    shape = p.batch, p.k, rows
    src = torch.empty_strided(shape, (strides[0], 1, strides[1]), dtype=p.dtype, device="meta")
    out = plan.empty("out", shape, p.dtype, p.device)
    move(plan, src, torch.empty(shape, dtype=p.dtype, device="meta"), out)
    return plan.build(out)


def _with_turned(plan: Plan, p: Product) -> Product:
    """p with the operands that lie along K turned by each call that needs it so; strides are asked for in each call."""
    if p.a_strides[2] == 1 and p.n >= _COLUMNS_TO_TURN:
        turn = _turner(p, p.m, p.a_strides[:2])
        plan.do("a_turned = {turn}({a}).mT if {exact}() else {a}", turn=turn, a=p.a, exact=_is_exact)
        p = replace(p, a=Code("a_turned"), a_strides=_strides_of("a_turned", p.batch))
    if p.c_strides[1] == 1 and p.m >= _ROWS_TO_TURN:
        turn = _turner(p, p.n, (p.c_strides[0], p.c_strides[2]))
        plan.do("c_turned = {turn}({c}) if {exact}() else {c}", turn=turn, c=p.c, exact=_is_exact)
        p = replace(p, c=Code("c_turned"), c_strides=_strides_of("c_turned", p.batch))
    return p


def _strides_of(name: str, batch: int) -> tuple:
    return Code(f"{name}.stride(0)") if batch > 1 else 0, Code(f"{name}.stride(-2)"), Code(f"{name}.stride(-1)")


def multiply(plan: Plan, p: Product) -> None:
    """Plan the launch of the tuned kernel on p."""
    layout = (p.a_strides[2] == 1) + 2 * (p.c_strides[1] == 1)
    if p.dtype == torch.float32 and layout and min(p.m, p.n) >= _ROWS_TO_TURN:
        p = _with_turned(plan, p)
        layout = Code(f"({p.a_strides[2]} == 1) + 2 * ({p.c_strides[1]} == 1)")
    m, n, batch = p.m, p.n, p.batch

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (batch * -(-m // meta["BLOCK_M"]) * -(-n // meta["BLOCK_N"]),)

    plan.launch(
        _tiled_matmul_kernel, grid,
        p.a, p.c, p.bias, p.out, p.m, p.n, p.k, p.batch,
        *p.a_strides, *p.c_strides, *p.out_strides, *p.bias_strides, p.alpha, p.beta,
        layout, input_precision(plan, p.dtype),
    )  # fmt: skip
