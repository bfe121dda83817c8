"""Calls with a place outside of what they index: each must fail as ATen's does, never read or write there."""

from __future__ import annotations

import torch
from torch import Tensor

from gems_runtime import device


def table() -> Tensor:
    return torch.arange(24.0, device=device.torch_device()).view(4, 6)


def at(*places: int) -> Tensor:
    return torch.tensor(places, device=device.torch_device())


OUTSIDE = {
    "embedding": lambda i: torch.nn.functional.embedding(i, table()),
    "nll_loss": lambda i: torch.nn.functional.nll_loss(table()[:, :2].t(), i),
    "index_select": lambda i: table().index_select(0, i),
    "gather": lambda i: table().gather(0, i[:, None]),
    "index": lambda i: table()[i],
    "index_put": lambda i: table().index_put_((i,), table()[: len(i)]),
    "index_put added up": lambda i: table().repeat(1, 6).index_put_((i,), table()[0, 0], accumulate=True),
    "scatter": lambda i: table().scatter_(0, i[:, None], 1.0),
    "scatter_reduce": lambda i: table().scatter_reduce_(0, i[:, None], table(), "amax"),
    "scatter_add": lambda i: table().scatter_add_(0, i[:, None], table()),
    "index_add": lambda i: table().index_add_(0, i, table()[: len(i)]),
    "index_copy": lambda i: table().index_copy_(0, i, table()[: len(i)]),
    "index_fill": lambda i: table().index_fill_(0, i, 1.0),
}
