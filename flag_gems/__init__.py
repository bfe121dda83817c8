"""flag_gems: switch a PyTorch program to the operators of gems_ops with one line, `flag_gems.enable()`."""

from gems_ops.control import (
    all_registered_keys,
    all_registered_ops,
    disable,
    enable,
    explain,
    only_enable,
    use_gems,
)

__version__ = "0.1.0"
__all__ = [
    "all_registered_keys",
    "all_registered_ops",
    "disable",
    "enable",
    "explain",
    "only_enable",
    "use_gems",
]


def __getattr__(name: str) -> object:
    """Every declared operator as a function, and the plain functions: `flag_gems.mm(a, b)`, `flag_gems.rms_norm(...)`."""
    from gems_ops.functions import function

    # found as a plain attribute from now on: looking an operator up takes 20 us
    return globals().setdefault(name, function(name))
