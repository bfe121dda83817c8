"""gems_runtime: a kernel cache and launch runtime for Triton. It names no operator.

Modules, top to bottom; each imports only from those above it:
errors, aside, settings, compat, device, stats, grid, signature, compiled, chain, binding, launch, launchers, binders, native, records, surroundings, store, toolchain, fingerprint, flight,
bench, numerics, ranking, strategy, transfer, policy, options, candidates, witness, contest, vigil, problem, together, argspec, gridspec, untuned, tuner, tuned, trial, entry,
modes, target, journal, jobs, warm, worker, begun, crew,
explain, audit, replay, foreign, doctor, cli,
__main__. Importing the package opens no file and touches no device.
"""

from __future__ import annotations

import importlib

# Public name -> the module that defines it, imported when first asked for.
_PUBLIC = {
    "LibEntry": "entry",
    "libentry": "entry",
    "LibTuner": "tuned",
    "libtuner": "tuned",
    "Mode": "settings",
    "distribute": "together",
    "seal": "modes",
    "tune_mode": "modes",
    "native_status": "native",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gems_runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gems_runtime.{_PUBLIC[name]}"), name)
