"""Keys: equal for what gives the same kernel, different for what may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from void_device import KERNEL, device_with, load

from gems_runtime import device, entry, fingerprint, settings, toolchain
from gems_runtime.fingerprint import argument_class, closure, code_of, config_fields, find_config, jit_of, plain
from gems_runtime.records import canonical, digest
from gems_runtime.target import compiling_for


def closure_of(folder: Path, source: str) -> str:
    return closure(jit_of(load(folder, source).kernel))


@pytest.mark.parametrize(
    ("before", "after", "is_equal"),
    [
        ("def kernel", "def kernel", True),
        ("x + 1", "x + 1  # one", True),
        ("x + 1", "(x + 1)", True),
        ("x + 1", "1 + x", False),
        ("def callee(x)", "def callee(x, unused=0)", False),
        ("STEP = tl.constexpr(1)", "STEP = tl.constexpr(True)", False),
        ("STEP = tl.constexpr(1)", "OTHER = tl.constexpr(5)\nSTEP = tl.constexpr(1)", True),
        ("@triton.jit\ndef callee", "@triton.jit(noinline=True)\ndef callee", False),
        ('@triton.jit\ndef kernel', '@triton.jit(do_not_specialize=["n"])\ndef kernel', False),
    ],
)
def test_the_closure_changes_with_what_is_compiled(tmp_path: Path, before: str, after: str, is_equal: bool) -> None:
    assert before in KERNEL
    assert (closure_of(tmp_path, KERNEL) == closure_of(tmp_path, KERNEL.replace(before, after))) is is_equal


def test_callees_are_found_through_modules_and_callees(tmp_path: Path) -> None:
    def with_inner(text: str) -> str:
        inner = load(tmp_path, f"import triton\n\n@triton.jit\ndef deep(x):\n    return x {text}\n\n@triton.jit\ndef shallow(x):\n    return deep(x)\n")
        source = KERNEL.replace("callee(tl.load(x_ptr + i))", "inner.shallow(tl.load(x_ptr + i))")
        return closure_of(tmp_path, source.replace("import triton\n", f"import triton\nimport {inner.__name__} as inner\n", 1))

    assert with_inner("* 2") == with_inner("* 2")
    assert with_inner("* 2") != with_inner("* 3")


def test_a_default_counts_by_its_value_when_the_function_was_made(tmp_path: Path) -> None:
    source = KERNEL.replace("STEP = tl.constexpr(1)", "STEP = tl.constexpr(1)\nD = 4").replace("BLOCK: tl.constexpr)", "BLOCK: tl.constexpr, d=D)")
    assert closure_of(tmp_path, source) != closure_of(tmp_path, source.replace("D = 4", "D = 5"))


def test_a_function_that_calls_itself_has_a_closure(tmp_path: Path) -> None:
    assert closure_of(tmp_path, KERNEL.replace("return x + 1", "return callee(x)"))


def test_heuristics_count(tmp_path: Path) -> None:
    source = KERNEL.replace("@triton.jit\ndef kernel", "@triton.heuristics({'E': lambda a: a['n'] % 2})\n@triton.jit\ndef kernel")
    source = source.replace("BLOCK: tl.constexpr)", "BLOCK: tl.constexpr, E: tl.constexpr)")
    keys = {canonical(fingerprint.kernel_fields(load(tmp_path, s).kernel)) for s in (source, source.replace("% 2", "% 4"), source)}
    assert len(keys) == 2


def test_values_keep_their_types() -> None:
    values = [1, True, 1.0, "1", None, (1,), tl.float16, torch.float16, float("inf"), float("nan"), 2**70, tl.constexpr(2)]
    assert len({canonical(plain(v)) for v in values}) == len(values)
    assert plain(tl.constexpr(2)) == plain(2)
    for value in (object(), torch.zeros(1), lambda: 0):
        with pytest.raises(fingerprint.Unstable):
            plain(value)


def test_a_configuration_is_found_again_by_type() -> None:
    configs = [triton.Config({"E": value}, num_warps=w) for value in (1, True, None) for w in (4, 8)]
    assert [find_config(config_fields(c), configs) for c in configs] == configs
    assert find_config(config_fields(triton.Config({"E": 1.0})), configs) is None


def test_hooks_are_known_by_what_they_do_and_close_over() -> None:
    def hook(k: int):  # noqa: ANN202 - a hook
        return lambda args: k

    assert code_of(hook(1)) == code_of(hook(1)) != code_of(hook(2))


@pytest.mark.parametrize(
    ("one", "other", "is_equal"),
    [
        (16, 32, True),
        (16, 17, False),
        (1, 3, False),
        (3, 2**31 + 3, False),
        (True, False, True),
        (True, 1, False),
        (1.5, 2.5, True),
        (torch.zeros(4), torch.zeros(8, 8), True),
        (torch.zeros(4), torch.zeros(5)[1:], False),
        (torch.zeros(4), torch.zeros(4).half(), False),
        (torch.zeros(4, 4), torch.zeros(4, 4).T, False),
        (torch.zeros(4, 4).T, torch.zeros(4, 8)[:, ::2], False),
        ((1, 16), (1, 32), True),
        ((1, 16), (16, 1), False),
        (None, 0, False),
    ],
)
def test_arguments_are_classed_as_the_compiler_specialises_them(one: object, other: object, is_equal: bool) -> None:
    assert (canonical(argument_class(one)) == canonical(argument_class(other))) is is_equal


def test_targets_and_knobs_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = load(tmp_path).kernel

    def key() -> str:
        return canonical(fingerprint.shared_fields(kernel, "protocol"))

    with compiling_for("cuda:80"):
        first = key()
    with compiling_for("cuda:90"):
        assert key() != first
        plain_key = key()
        monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
        assert key() != plain_key


def test_tritons_key_is_remembered_until_a_file_of_triton_changes(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    monkeypatch.setattr(toolchain, "triton_key", lambda: computed.append(1) or "k")
    toolchain.code_key.cache_clear()
    try:
        assert toolchain.code_key() == "k"
        assert not own_store.exists() and len(computed) == 1  # reading alone makes no directory
        own_store.mkdir()
        for expected in (2, 2):
            toolchain.code_key.cache_clear()
            assert toolchain.code_key() == "k" and len(computed) == expected
        (memo,) = own_store.iterdir()
        for torn in ("", "[]", '{"stamp": 1}'):
            memo.write_text(torn)
            toolchain.code_key.cache_clear()
            assert toolchain.code_key() == "k"
        assert len(computed) == 5
        monkeypatch.setattr(toolchain, "_stamps", lambda root: iter(["changed"]))
        toolchain.code_key.cache_clear()
        assert toolchain.code_key() == "k" and len(computed) == 6
    finally:
        toolchain.code_key.cache_clear()


def test_triton_finds_compiled_kernels_with_the_remembered_key() -> None:
    assert entry.toolchain is toolchain and triton.runtime.cache.triton_key is toolchain.code_key
    assert toolchain.code_key() == toolchain.triton_key()


def test_the_assemblers_version_is_remembered_until_its_file_changes(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(toolchain, "_stock_assembler_version", lambda arch: asked.append(arch) or f"for {arch}")
    own_store.mkdir()
    try:
        for expected in (1, 1):
            toolchain.assembler_version.cache_clear()
            assert toolchain.assembler_version(90) == "for 90" and len(asked) == expected
        ptxas = own_store / "ptxas"
        ptxas.write_text("another")
        monkeypatch.setattr(toolchain.nvidia, "get_ptxas", lambda arch: SimpleNamespace(path=str(ptxas)))
        toolchain.assembler_version.cache_clear()
        assert toolchain.assembler_version(90) == "for 90" and len(asked) == 2
    finally:
        toolchain.assembler_version.cache_clear()


def test_triton_asks_for_the_remembered_version_of_the_assembler() -> None:
    assert toolchain.nvidia.get_ptxas_version is toolchain.assembler_version
    assert toolchain.assembler_version(90) == toolchain._stock_assembler_version(90)


def test_the_stamp_covers_the_library_and_the_compiler() -> None:
    names = {entry[0] for entry in toolchain._stamps(Path(triton.__file__).parent) if isinstance(entry, list)}
    assert {"compiler.py", "semantic.py", "runtime/cache.py"} <= names and any(n.startswith("libtriton") for n in names)


def test_no_path_is_in_a_key(tmp_path: Path) -> None:
    with device_with(), settings.override(salt="s"):
        text = canonical(fingerprint.shared_fields(load(tmp_path).kernel, "protocol"))
    assert str(tmp_path) not in text and str(Path(__file__).parents[2]) not in text


@pytest.mark.parametrize("change", [{"name": "NVIDIA H200"}, {"sm_count": 114}, {"memory_bytes": 141 << 30}, {"l2_bytes": 50 << 20}])
def test_a_result_of_one_device_is_not_anothers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]) -> None:
    h100 = device.DeviceIdentity("nvidia", "NVIDIA H100", "cuda:90", 132, 60 << 20, 80 << 30)
    kernel, configs = load(tmp_path).kernel, [triton.Config({"BLOCK": 64})]

    def keys(identity: device.DeviceIdentity) -> set[str]:
        monkeypatch.setattr(device, "identity", lambda: identity)
        shared = fingerprint.shared_fields(kernel, "protocol")
        fields = fingerprint.decision_fields(shared, {}, configs), fingerprint.measurement_fields(shared, {}, configs[0])
        return set(map(digest, fields))

    with device_with():
        assert keys(h100) == keys(replace(h100)) and not keys(h100) & keys(replace(h100, **change))
