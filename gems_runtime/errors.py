"""The exceptions of gems_runtime. Messages name the thing, what was found and what to do."""


class GemsError(Exception):
    """Base of every error this project raises on purpose."""


class UsageError(GemsError):
    """The caller asked for something that does not exist or is malformed; the command line exits with 2."""


class StoreError(GemsError):
    """The tuning store cannot be used as asked. Raised by explicit store calls, never by a kernel launch."""


class StoreMiss(GemsError):
    """Strict mode found no valid decision for a kernel call."""


class RanksDisagree(GemsError):
    """Ranks of one job would launch one kernel with different configurations, and the store cannot settle it."""


class NoValidConfig(GemsError):
    """Every candidate configuration of a kernel failed; the message lists the status of each."""


class DeviceLost(GemsError, RuntimeError):
    """A configuration broke the process's device context while it was tried; every later launch of the process fails."""


class GridTooLarge(GemsError):
    """A grid of more than 2**31 - 1 programs for a path on which Triton's launcher would silently run none of them."""


class SealBroken(GemsError):
    """A kernel was compiled after `seal(on_compile="error")`."""


class UnsupportedOperator(GemsError):
    """An overload that must not be overridden, for example one that ATen decomposes before the backend."""


class NoDevice(GemsError, RuntimeError):
    """There is nothing to run kernels on: no GPU that Triton has a driver for, and its interpreter is off."""
