"""`gems-cache pin` and `unpin`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from gems_runtime.cli.ls import short
from gems_runtime.cli.output import DONE, answer
from gems_runtime.cli.parser import Verb
from gems_runtime.errors import GemsError, StoreError, UsageError

if TYPE_CHECKING:
    from gems_runtime.records import Decision
    from gems_runtime.store import Store
    from gems_runtime.store.overrides import Overrides


def _key_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="the first letters of a key that `ls` shows")


def _pin_arguments(parser: argparse.ArgumentParser) -> None:
    _key_argument(parser)
    parser.add_argument("--config", help="another configuration that was timed for the kernel, such as 'BLOCK=64 num_warps=8'")


def _pin(options: argparse.Namespace) -> int:
    from gems_runtime import store

    own = store.current()
    found = _one(_decisions(own), options.key)
    if options.config:
        found = _with_config(own, found, options.config)
    try:
        _overrides(own).pin(found)
    except OSError as error:
        raise StoreError(f"the overrides file cannot be written: {error}") from None
    answer(options, {"key": found.key, "config": short(found.config)}, f"{found.key[:12]}  {found.kernel}  {short(found.config)}")
    return DONE


def _unpin(options: argparse.Namespace) -> int:
    from gems_runtime import store

    own = store.current()
    found = _one([r for r in _decisions(own) if own.pinned(r.key)], options.key, "pinned decision")
    try:
        _overrides(own).unpin(found.key)
    except OSError as error:
        raise StoreError(f"the overrides file cannot be written: {error}") from None
    answer(options, {"key": found.key}, f"{found.key[:12]}  {found.kernel}")
    return DONE


def _overrides(own: Store) -> Overrides:
    if own.overrides is None:
        raise StoreError("there is no overrides file: the store is in memory (GEMS_STORE=0)")
    return own.overrides


def _decisions(own: Store) -> list[Decision]:
    from gems_runtime.records import Decision

    return [r for r in own.records() if isinstance(r, Decision)]


def _one(held: list[Decision], prefix: str, what: str = "decision") -> Decision:
    found = [r for r in held if r.key.startswith(prefix.removeprefix("d/"))]
    if not found:
        raise GemsError(f"there is no {what} that begins with {prefix!r}; gems-cache ls lists what there is")
    if len(found) > 1:
        raise UsageError(f"{len(found)} decisions begin with {prefix!r}; give more of the key")
    return found[0]


def _with_config(own: Store, decision: Decision, text: str) -> Decision:
    """The decision with the one timed configuration that has these values."""
    from gems_runtime.records import Measurement, canonical

    wanted = set(text.split())
    measured = [[r.config, r.p50_us] for r in own.records() if isinstance(r, Measurement) and r.kernel == decision.kernel and r.status == "ok"]
    known = {canonical(config): (config, time) for config, time in [*measured, *decision.top]}
    found = [pair for pair in known.values() if wanted <= set(short(pair[0]).split())]
    if len(found) != 1:
        each = "; ".join(short(config) for config, _ in (found or known.values()))
        raise UsageError(f"{len(found)} of the configurations timed for {decision.kernel} have {text!r}; there are: {each}")
    config, time = found[0]
    others = [row for row in decision.top if canonical(row[0]) != canonical(config)]
    return replace(decision, config=config, top=[[config, time], *others])


PIN = Verb("pin", "keep a decision, or another configuration for it, through every retuning", _pin, _pin_arguments)
UNPIN = Verb("unpin", "let a pinned decision be tuned again", _unpin, _key_argument)
