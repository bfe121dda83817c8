"""A matrix product as its kernels see it: sizes, strides by role, scalars and precision in one record."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from gems_ops.plan import Code, Plan


@dataclass(slots=True)
class Product:
    """out[b] = alpha * a[b] @ c[b] + beta * bias[b], with a (m, k), c (k, n); strides are (batch, row, column).

    Tensors are what the plan's text calls them.
    """

    a: Code
    c: Code
    out: Code
    dtype: torch.dtype
    device: torch.device
    m: int
    n: int
    k: int
    batch: int
    a_strides: tuple[int, int, int]
    c_strides: tuple[int, int, int]
    out_strides: tuple[int, int, int]
    bias: Code | None = None
    bias_strides: tuple[int, int, int] = (0, 0, 0)
    alpha: float = 1.0
    beta: float = 1.0

    def transposed(self) -> Product:
        """The same product as out.T = c.T @ a.T: nothing moves, the strides swap roles."""
        (ab, am, ak), (cb, ck, cn), (ob, om, on) = self.a_strides, self.c_strides, self.out_strides
        ib, im, i_n = self.bias_strides
        return replace(
            self,
            a=self.c,
            c=self.a,
            m=self.n,
            n=self.m,
            a_strides=(cb, cn, ck),
            c_strides=(ab, ak, am),
            out_strides=(ob, on, om),
            bias_strides=(ib, i_n, im),
        )


_precision_of = torch._C._get_fp32_precision_getter


def float32_precision() -> str:
    """Triton's name for what torch allows float32 products to do: "tf32" if the user said so, else "ieee".

    This getter is right whichever of torch's two interfaces the setting was made through; the public
    `allow_tf32` raises when both were used.
    """
    return "tf32" if _precision_of("cuda", "matmul") == "tf32" else "ieee"


def input_precision(plan: Plan, dtype: torch.dtype) -> Code:
    """The precision of products of this dtype, read in each call where the user may change it between calls."""
    if dtype != torch.float32:
        return plan.bind("ieee")
    return Code(f"{plan.bind(float32_precision)}()")
