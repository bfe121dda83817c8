"""A launch grid as text: `8`, or `cdiv(n, BLOCK), 4`. Arithmetic on names and nothing else is evaluated."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

import triton

from gems_runtime.errors import UsageError
from gems_runtime.fingerprint import plain

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS = {"cdiv": triton.cdiv, "min": min, "max": max, "next_power_of_2": triton.next_power_of_2}


def parse(text: str) -> Callable[[Mapping[str, object]], tuple[int, ...]]:
    """The grid as the function of a configuration that Triton takes. Raises UsageError, when called for a bad name."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise UsageError(f"grid {text!r} is not understood; write 8 or 'cdiv(n, BLOCK), 4'") from None
    parts = tree.elts if isinstance(tree, ast.Tuple) else [tree]
    if not 1 <= len(parts) <= 3:
        raise UsageError(f"grid {text!r} has {len(parts)} dimensions; a grid has one to three")
    for node in (n for part in parts for n in ast.walk(part)):
        _check_node(node, text)
    return lambda meta: tuple(_evaluate(part, meta, text) for part in parts)


def table(rows: object) -> Callable[[Mapping[str, object]], tuple[int, ...]]:
    """The grid of a recorded call: [[values of a configuration, grid as text], ...]. Raises UsageError for what is none,
    and when it is called for a configuration that was not recorded."""
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise UsageError("a recorded grid is a text, or a list of [configuration, text] pairs")
    grids = [(values, parse(text)) for values, text in rows]

    def grid(meta: Mapping[str, object]) -> tuple[int, ...]:
        for values, one in grids:
            if all(name in meta and plain(meta[name]) == value for name, value in values.items()):
                return one(meta)
        raise UsageError("the recorded grid does not cover a configuration that was added since; record the call again")

    return grid


def _is_row(row: object) -> bool:
    return isinstance(row, list) and len(row) == 2 and isinstance(row[0], dict) and isinstance(row[1], str)


def names(text: str) -> set[str]:
    """The names that a grid reads. Raises UsageError if it is no grid."""
    parse(text)
    read = (n for n in ast.walk(ast.parse(text.strip(), mode="eval")) if isinstance(n, ast.Name))
    return {name.id for name in read} - _FUNCTIONS.keys()


def _check_node(node: ast.AST, text: str) -> None:
    fine = (ast.Name, ast.Load, ast.BinOp, ast.Call, *_OPERATORS)
    number = isinstance(node, ast.Constant) and type(node.value) is int
    call = not isinstance(node, ast.Call) or (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS)
    if not (isinstance(node, fine) or number) or not call:
        raise UsageError(f"grid {text!r} may hold numbers, names, + - * // % and {', '.join(_FUNCTIONS)}")


def _evaluate(node: ast.AST, meta: Mapping[str, object], text: str) -> int:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        if not isinstance(meta.get(node.id), int):
            raise UsageError(f"grid {text!r} names {node.id}, which is not a number of this call")
        return meta[node.id]
    if isinstance(node, ast.Call):
        return _FUNCTIONS[node.func.id](*(_evaluate(a, meta, text) for a in node.args))
    return _OPERATORS[type(node.op)](_evaluate(node.left, meta, text), _evaluate(node.right, meta, text))
