"""tools/triton_matrix: the same tests on every supported Triton, in one virtual environment each.

An environment holds a Triton and nothing else; torch and the rest are this interpreter's, seen through a .pth file. It
is made on first use, from pip's index, and kept in .matrix/.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".matrix"
# Of each the newest patch that pip finds.
SUPPORTED = ("3.6", "3.7", "3.8", "3.9")
TESTS = "tests/runtime"


@dataclass(frozen=True)
class Result:
    """One environment's run."""

    version: str
    passed: int
    failed: int
    skipped: int
    seconds: float


def environment(release: str) -> Path:
    """The interpreter that has this Triton, made if it is not there."""
    place = FOLDER / release
    python, made = place / "bin" / "python", place / "made"
    if not made.exists():
        print(f"making {place.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
        venv.create(place, clear=True, with_pip=False, symlinks=True)
        site = next((place / "lib").glob("python*/site-packages"))
        # Paths of a .pth file come after the environment's own, so its Triton is the one found.
        (site / "shared.pth").write_text("".join(f"{p}\n" for p in sys.path if p.endswith(("site-packages", "dist-packages"))))
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-input"]
        done = subprocess.run([*pip, "--no-deps", "--ignore-installed", f"triton=={release}.*"])
        if done.returncode:
            raise SystemExit(f"tools/triton_matrix: pip could not install triton {release}; it says why above")
        made.touch()
    return python


def run(release: str, arguments: list[str]) -> Result:
    """The tests in one environment; their output goes to the terminal."""
    python = environment(release)
    say = [str(python), "-c", "import triton; print(triton.__version__)"]
    version = subprocess.run(say, check=True, capture_output=True, text=True).stdout.strip()
    if not version.startswith(f"{release}."):
        raise SystemExit(f"tools/triton_matrix: {python} has triton {version}; remove {python.parent.parent} and run this again")
    print(f"== Triton {version}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [str(python), "-m", "pytest", "-q", f"--junitxml={report}", *arguments]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        if not report.exists():
            raise SystemExit(f"tools/triton_matrix: pytest ended without a report on Triton {version}; it says why above")
        return _result(version, ElementTree.parse(report).getroot())


def _result(version: str, report: ElementTree.Element) -> Result:
    suite = next(report.iter("testsuite"))
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return Result(version, total - failed - skipped, failed, skipped, float(suite.get("time", 0)))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/triton_matrix", description=__doc__, epilog="Everything else goes to pytest.")
    parser.add_argument("--triton", action="append", choices=SUPPORTED, help="only this one; may be repeated")
    parser.add_argument("--make", action="store_true", help="only make the environments")
    parser.add_argument("--quick", action="store_true", help="CI's share of generated launches and repetitions, not all of them")
    options, arguments = parser.parse_known_args(argv)
    releases = options.triton or SUPPORTED
    if options.make:
        for release in releases:
            print(environment(release))
        return 0
    if not any(not a.startswith("-") and Path(a.split("::")[0]).exists() for a in arguments):
        arguments.append(TESTS)
    arguments += ["--full"] * (not options.quick)
    results = [run(release, arguments) for release in releases]
    print(f"{'Triton':10}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for r in results:
        print(f"{r.version:10}{r.passed:8}{r.failed:8}{r.skipped:9}{r.seconds:9.1f}")
    return 1 if any(r.failed or not r.passed for r in results) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
