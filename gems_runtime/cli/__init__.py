"""The `gems-cache` command. stdout is the answer, stderr is talk; see `output` for the exit codes.

Each verb is a module that defines `VERB`; `table` lists them.
"""

from __future__ import annotations

import os
import sys

from gems_runtime.cli import output
from gems_runtime.cli.parser import build
from gems_runtime.cli.table import VERBS
from gems_runtime.errors import GemsError, NoDevice, StoreError, UsageError


def main(argv: list[str] | None = None) -> int:
    """Run one command and give back its exit code."""
    try:
        options = build(VERBS).parse_args(argv)
        return options.verb(options)
    except UsageError as error:
        return _failed(error, output.USAGE)
    except (StoreError, NoDevice) as error:
        return _failed(error, output.ENVIRONMENT)
    except GemsError as error:
        return _failed(error, output.FINDINGS)
    except KeyboardInterrupt:
        output.talk("stopped; what was measured until now is kept")
        return output.INTERRUPTED
    except BrokenPipeError:  # the reader of stdout (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return output.DONE


def _failed(error: Exception, code: int) -> int:
    output.talk(error)
    return code
