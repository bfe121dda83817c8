"""What sorting in a tile needs and Triton has no words for, in PTX: shared memory that threads address on their own.

Each text is run once by each of THREADS threads, on one element of every operand [THREADS], and barriers are in the text.
"""

from __future__ import annotations

THREADS = 256  # of a program, and digits: thread t also looks after digit t
_WARPS = THREADS // 32
_COUNTERS = 8 * THREADS  # bytes of a warp's: for each digit, which lanes have it now, and how many had it before
THERE, LAST = 1 << 30, 1 << 31  # bits of a word: it is there; it sums up all tiles before, too. A count lies below.
AHEAD = 4  # words of tiles before that are on their way at once


def _text(*lines: str) -> str:
    return "{\n" + "\n".join(lines) + "\n}"


def memory(n_bytes: int) -> str:
    """$0: the address of so many bytes. $1 is any operand."""
    return _text(f".shared .align 16 .b8 gems_tile[{n_bytes}];", "mov.u32 $0, gems_tile;")


def memory_of(items: int) -> str:
    """Room for items of 8 bytes, and at other times for the counters and the sum of each warp."""
    return memory(max(8 * THREADS * items, _WARPS * _COUNTERS + 4 * _WARPS))


def memory_of_tallies(digits: int) -> str:
    """Room for counters of so many digits."""
    return memory(4 * THREADS * max(digits, 1))


def ranked(items: int) -> tuple[str, str]:
    """Of digits ${items + 2}...: their places when sorted, $0...; how many there are of digit t, and where they begin.

    The elements of a warp are counted in turns of 32: lanes mark themselves at their digit, read who else did, and the
    lowest adds their number to those before. With match.any, which needs no memory, 8192 rows of 4096 float32 took 1008 us,
    so 575 (H100, 2026-11-27).
    """
    digits = [f"${items + 2 + j}" for j in range(items)]
    thread, base = f"${2 * items + 2}", f"${2 * items + 3}"
    turns = [
        line
        for j, digit in enumerate(digits)
        for line in (
            f"shl.b32 x, {digit}, 3;", "add.u32 x, x, counters;", "red.shared.or.b32 [x], self;", "bar.warp.sync 0xffffffff;",
            "ld.shared.v2.u32 {lanes, before}, [x];", "and.b32 y, lanes, lower;", f"popc.b32 ${j}, y;", f"setp.eq.u32 is, ${j}, 0;",
            f"add.u32 ${j}, ${j}, before;", "popc.b32 y, lanes;", "add.u32 before, before, y;", "mov.u32 lanes, 0;",
            "bar.warp.sync 0xffffffff;", "@is st.shared.v2.u32 [x], {lanes, before};", "bar.warp.sync 0xffffffff;",
        )
    ]  # fmt: skip
    sums = _WARPS * _COUNTERS
    text = _text(
        f".reg .pred is; .reg .b32 self, lower, lane, warp, counters, own, lanes, before, x, y, sum, n<{_WARPS}>;",
        # Lanes are counted in the order of threads, so operands must lie so.
        "mov.u32 x, %tid.x;", f"setp.ne.u32 is, x, {thread};", "@is trap;",
        "mov.u32 self, %lanemask_eq;", "mov.u32 lower, %lanemask_lt;", "mov.u32 lane, %laneid;", f"shr.u32 warp, {thread}, 5;",
        f"shl.b32 own, {thread}, 3;", f"add.u32 own, own, {base};", f"mad.lo.u32 counters, warp, {_COUNTERS}, {base};", "mov.u32 x, 0;",
        *(f"st.shared.v2.u32 [own + {k * _COUNTERS}], {{x, x}};" for k in range(_WARPS)), "bar.sync 0;",
        *turns, "bar.sync 0;",
        # Thread t: how many of digit t each warp has, and their sum; then the sums of all digits before.
        "mov.u32 sum, 0;", *(f"ld.shared.u32 n{k}, [own + {k * _COUNTERS + 4}];" for k in range(_WARPS)), *(f"add.u32 sum, sum, n{k};" for k in range(_WARPS)),
        "mov.u32 x, sum;", *(f"shfl.sync.up.b32 y|is, x, {1 << k}, 0, 0xffffffff; @is add.u32 x, x, y;" for k in range(5)),
        "setp.eq.u32 is, lane, 31;", f"mad.lo.u32 y, warp, 4, {base};", f"@is st.shared.u32 [y + {sums}], x;", "bar.sync 0;",
        *(f"ld.shared.u32 y, [{base} + {sums + 4 * k}]; setp.gt.u32 is, warp, {k}; @is add.u32 x, x, y;" for k in range(_WARPS - 1)),
        "sub.u32 x, x, sum;", f"mov.u32 ${items}, sum;", f"mov.u32 ${items + 1}, x;",
        *(f"st.shared.u32 [own + {k * _COUNTERS + 4}], x; add.u32 x, x, n{k};" for k in range(_WARPS)), "bar.sync 0;",
        *(f"shl.b32 x, {digit}, 3; add.u32 x, x, counters; ld.shared.u32 x, [x + 4]; add.u32 ${j}, ${j}, x;" for j, digit in enumerate(digits)),
        "bar.sync 0;",
    )  # fmt: skip
    return text, ",".join(["=&r"] * (items + 2) + ["r"] * (items + 2))


def exchanged(items: int) -> tuple[str, str]:
    """Of 64-bit values and their places in the tile: the values whose places are the thread's own."""
    thread, base = f"${3 * items}", f"${3 * items + 1}"
    text = _text(
        ".reg .b32 x, own;",
        *(f"mad.lo.u32 x, ${2 * items + j}, 8, {base}; st.shared.b64 [x], ${items + j};" for j in range(items)), "bar.sync 0;",
        f"shr.u32 x, {thread}, 5;", f"and.b32 own, {thread}, 31;", f"mad.lo.u32 own, x, {32 * items}, own;", f"mad.lo.u32 own, own, 8, {base};",
        *(f"ld.shared.b64 ${j}, [own + {256 * j}];" for j in range(items)), "bar.sync 0;",
    )  # fmt: skip
    return text, ",".join(["=&l"] * items + [str(j) for j in range(items)] + ["r"] * (items + 2))


def looked_up(items: int) -> tuple[str, str]:
    """Of a value for each thread, and threads' numbers: their values."""
    value, thread, base = (f"${2 * items + k}" for k in range(3))
    text = _text(
        ".reg .b32 x;", f"mad.lo.u32 x, {thread}, 4, {base};", f"st.shared.u32 [x], {value};", "bar.sync 0;",
        *(f"mad.lo.u32 x, ${items + j}, 4, {base}; ld.shared.u32 ${j}, [x];" for j in range(items)), "bar.sync 0;",
    )  # fmt: skip
    return text, ",".join(["=&r"] * items + ["r"] * (items + 3))


def counted_before() -> str:
    """The sum of the thread's digit in all tiles before: $1 is its word in the last of them, $2 how many there are."""
    read = "ld.relaxed.gpu.global.u32"
    begin = [f"mov.u32 word{k}, {LAST}; setp.gt.s32 is, tiles, {k}; @is {read} word{k}, [at + {-4 * THREADS * k}];" for k in range(AHEAD)]
    take = [
        f"wait{k}: setp.ne.u32 is, word{k}, 0; @is bra there{k}; {read} word{k}, [at + {-4 * THREADS * k}]; bra wait{k};\n"
        f"there{k}: setp.lt.s32 is, word{k}, 0; and.b32 word{k}, word{k}, {THERE - 1}; add.u32 sum, sum, word{k}; @is bra done;"
        for k in range(AHEAD)
    ]
    return _text(
        f".reg .pred is; .reg .b64 at; .reg .b32 tiles, sum, word<{AHEAD}>;", "mov.b64 at, $1;", "mov.u32 tiles, $2;", "mov.u32 sum, 0;",
        "next:", *begin, *take, f"sub.s64 at, at, {4 * THREADS * AHEAD};", f"sub.s32 tiles, tiles, {AHEAD};", "bra next;",
        "done:", "mov.u32 $0, sum;",
    )  # fmt: skip


def cleared(digits: int) -> str:
    """Counters of so many digits are 0. $1: the thread, $2: their address."""
    return _text(
        ".reg .b32 x, y;", "mad.lo.u32 x, $1, 4, $2;", "mov.u32 y, 0;", *(f"st.shared.u32 [x + {4 * THREADS * p}], y;" for p in range(digits)),
        "mov.u32 $0, 0;", "bar.sync 0;",
    )  # fmt: skip


def tallied(digits: int, items: int) -> tuple[str, str]:
    """Counters of all digits of the keys $1..., 64 bits each, that are there, go up by one."""
    base = f"${1 + 2 * items}"
    each = [
        f"setp.ne.u32 is, ${1 + items + j}, 0; mov.b64 {{half0, half1}}, ${1 + j};\n"
        + "\n".join(f"bfe.u32 x, half{p // 4}, {8 * (p % 4)}, 8; mad.lo.u32 x, x, 4, {base}; @is red.shared.add.u32 [x + {4 * THREADS * p}], 1;" for p in range(digits))
        for j in range(items)
    ]
    return _text(".reg .pred is; .reg .b32 x, half<2>;", *each, "mov.u32 $0, 0;"), ",".join(["=r"] + ["l"] * items + ["r"] * (items + 1))


def tallies(digits: int) -> tuple[str, str]:
    """$0...: how many of each digit were equal to the thread's number."""
    thread, base = f"${digits}", f"${digits + 1}"
    text = _text(
        ".reg .b32 x;", "bar.sync 0;", f"mad.lo.u32 x, {thread}, 4, {base};", *(f"ld.shared.u32 ${p}, [x + {4 * THREADS * p}];" for p in range(digits)),
    )  # fmt: skip
    return text, ",".join(["=&r"] * digits + ["r", "r"])
