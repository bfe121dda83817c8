"""resolve_conj and resolve_neg: nothing to launch, because routers never see a tensor whose conj or neg bit is set."""

from __future__ import annotations

from torch import Tensor

from gems_ops.op import plain


@plain
def resolve_conj(A: Tensor) -> Tensor:  # noqa: N803  upstream's name
    """A itself, or its conjugate in memory of its own if A is a lazy one."""
    return A.resolve_conj()


@plain
def resolve_neg(A: Tensor) -> Tensor:  # noqa: N803
    """A itself, or its negation in memory of its own if A is a lazy one."""
    return A.resolve_neg()
