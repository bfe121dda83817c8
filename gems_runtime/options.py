"""What a LibTuner adds to Triton's Autotuner: one record, whose defaults stand for a stock Autotuner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from triton.runtime.autotuner import Autotuner

from gems_runtime.fingerprint import Bucket
from gems_runtime.strategy import Strategy
from gems_runtime.transfer import Rule


@dataclass(frozen=True)
class Options:
    """How a kernel's candidates are timed and which calls share what was found."""

    strategies: Mapping[str, Strategy] = field(default_factory=dict)
    policy: str = "default"
    warmup: float | None = None
    rep: float | None = None
    use_cuda_graph: bool = False
    transfer: Mapping[str, Rule] = field(default_factory=dict)
    valid: Callable[..., bool] | None = None
    # the kernel meets other ranks: a process that tunes it waits for no other
    collective: bool = False

    def bucket(self, name: str, value: object) -> object:
        """The value of a tuning key in the decision's key."""
        return self.strategies[name](value) if name in self.strategies else value


class Optioned(Autotuner):
    """An Autotuner with options."""

    options: Options


def options_of(tuner: Autotuner) -> Options:
    return tuner.options if isinstance(tuner, Optioned) else Options()


def bucket_of(tuner: Autotuner) -> Bucket:
    """The function of a key's name and value that gives the value for the decision's key."""
    return options_of(tuner).bucket
