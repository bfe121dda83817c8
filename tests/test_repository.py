"""Rules of the repository as tests: what may import what, who reads the environment, how long a file may be."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each may import from those to its right.
LAYERS = ("tests", "tools", "flag_gems", "gems_ops", "gems_runtime")
PACKAGES = LAYERS[2:]
MAX_LINES = 500


def python_files(*packages: str) -> list[Path]:
    """The Python files of these top-level directories; a rule over none of them would prove nothing."""
    found = sorted(p for package in packages for p in (ROOT / package).rglob("*.py"))
    assert found, packages
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Full names of what a file imports, wherever in the file: "gems_runtime.store" for `from gems_runtime import store`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def attribute_chains(tree: ast.AST) -> Iterator[str]:
    """Every dotted expression of a file as text: "torch.cuda.current_device"."""
    return (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer: str) -> None:
    below = LAYERS[LAYERS.index(layer) :]
    wrong = [
        f"{name_of(path)} imports {module}"
        for path in python_files(layer)
        for module in imported_modules(ast.parse(path.read_text()))
        if module.split(".")[0] in LAYERS and module.split(".")[0] not in below
    ]
    # The tests and the tools are both at the top: a test may run a tool's functions, a tool no test's.
    assert not wrong


def test_runtime_modules_import_only_from_those_listed_above_them() -> None:
    package = ROOT / "gems_runtime"
    modules = {p.stem if p.is_file() else p.name for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    order = [word for word in re.findall(r"\w+", docstring.split("above it", 1)[-1]) if word in modules]
    assert not modules - set(order) - {"__init__"}, "a module is missing from the list in gems_runtime/__init__.py"
    wrong = []
    for path in python_files("gems_runtime"):
        here = path.relative_to(package).parts[0].removesuffix(".py")
        for module in imported_modules(ast.parse(path.read_text())):
            parts = module.split(".")
            if parts[0] == "gems_runtime" and len(parts) > 1 and here != "__init__" and parts[1] in order:
                if parts[1] != here and order.index(parts[1]) > order.index(here):
                    wrong.append(f"{name_of(path)} imports {module}")
    assert not wrong


def test_only_settings_reads_the_environment() -> None:
    wrong = [
        f"{name_of(path)}: {chain}"
        for path in python_files(*PACKAGES)
        if path.name != "settings.py"
        for chain in attribute_chains(ast.parse(path.read_text()))
        if chain in ("os.environ", "os.getenv", "os.putenv")
    ]
    assert not wrong


def test_only_device_names_torch_cuda() -> None:
    wrong = [
        f"{name_of(path)}: {chain}"
        for path in python_files(*PACKAGES)
        if name_of(path) != "gems_runtime/device.py"
        for chain in attribute_chains(ast.parse(path.read_text()))
        if chain.startswith("torch.cuda.")
    ]
    assert not wrong


def test_the_runtime_names_no_operator_package() -> None:
    """Not even as text: the command line finds operators through entry points."""
    wrong = [name_of(p) for p in python_files("gems_runtime") if re.search(r"\bimport_module\(.*(gems_ops|flag_gems)", p.read_text())]
    assert not wrong


def test_broad_excepts_stand_only_in_the_command_line_and_the_tuner() -> None:
    wrong = []
    for path in python_files(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                if caught in ("", "Exception", "BaseException") and path.stem not in ("cli", "tuner"):
                    wrong.append(f"{name_of(path)}:{node.lineno}")
    assert not wrong


def test_no_file_is_longer_than_one_idea() -> None:
    lengths = {name_of(p): len(p.read_text().splitlines()) for p in python_files(*LAYERS)}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def run_python(code: str, tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process that keeps its caches under tmp_path."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GEMS_CACHE_DIR": str(tmp_path / "gems"), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, env={**env, **environment}, capture_output=True, text=True)


IMPORT_ONLY = """
import json, os, sys
seen = []
sys.addaudithook(lambda event, args: seen.append([event, str(args[0])]) if event in ("open", "os.mkdir", "sqlite3.connect") else None)
import flag_gems, gems_ops, gems_runtime
touched = [s for s in seen if s[1].startswith(os.environ["GEMS_CACHE_DIR"]) or s[0] == "sqlite3.connect"]
print(json.dumps({"touched": touched, "loaded": [m for m in ("diskcache", "transformers", "redis") if m in sys.modules]}))
"""


def test_import_opens_nothing_in_the_cache_and_loads_no_store(tmp_path: Path) -> None:
    done = run_python(IMPORT_ONLY, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"touched": [], "loaded": []}
    assert not (tmp_path / "gems").exists()


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.make_docs", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def pages() -> list[Path]:
    """The hand-written and generated pages whose snippets must run."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


@pytest.mark.parametrize("page", [p for p in pages() if snippets(p, "python")], ids=lambda p: p.name)
def test_python_snippets_run(page: Path, tmp_path: Path) -> None:
    """The snippets of a page are one program, in a file: Triton reads the source of kernels."""
    program = tmp_path / "snippets.py"
    program.write_text("\n".join(snippets(page, "python")))
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    done = run_python(code, tmp_path, str(program), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr


def gems_cache_lines() -> list[str]:
    """Every `gems-cache ...` line of a console block."""
    blocks = [block for page in pages() for block in snippets(page, "console")]
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.startswith("gems-cache")]


def test_documented_gems_cache_lines_run(tmp_path: Path) -> None:
    code = "import sys; from gems_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    assert gems_cache_lines()
    for line in gems_cache_lines():
        done = run_python(code, tmp_path, *line.split()[1:])
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("command", ["quickstart", "test", "setup", "bench", "compile_all", "gpu_check", "docs", "python"])
def test_commands_are_executable(command: str) -> None:
    assert os.access(ROOT / "tools" / command, os.X_OK)


def test_switching_on_with_nothing_to_run_kernels_on_says_so() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"CUDA_VISIBLE_DEVICES": ""}
    code = "import flag_gems; flag_gems.enable()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "set TRITON_INTERPRET=1" in done.stderr.splitlines()[-1]
