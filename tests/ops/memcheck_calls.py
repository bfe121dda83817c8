"""Calls of index and order operators, for a process that compute-sanitizer watches: prints how many our kernels served."""

from __future__ import annotations

import itertools
import json
import sys

import torch
from torch.utils._pytree import tree_map

import flag_gems
from gems_ops.op import all_ops
from gems_ops.register import counters
from gems_runtime import settings

DTYPES = (torch.float32, torch.bfloat16, torch.int64)
SAMPLES = 12  # of each operator in each dtype


def main(families: list[str]) -> None:
    ops = [o for o in all_ops() if o.family in families and o.name.startswith("aten::")]
    with flag_gems.use_gems(), settings.override(tune=settings.Mode.OFF):
        for op, dtype in itertools.product(ops, DTYPES):
            for sample in itertools.islice(op.samples(dtype), SAMPLES) if dtype in op.dtypes else ():
                args, kwargs = tree_map(lambda v: v.cuda() if isinstance(v, torch.Tensor) else v, (sample.args, sample.kwargs))
                op.overload(*args, **kwargs)
    torch.cuda.synchronize()
    found = counters()
    print(json.dumps({op.name: found[op.name].served if op.name in found else 0 for op in ops}))


if __name__ == "__main__":
    main(sys.argv[1:])
