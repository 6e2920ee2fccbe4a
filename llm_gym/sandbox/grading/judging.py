"""Evaluates the author's part of a test over a solution's values, where the values cannot make that costly."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from llm_gym.sandbox.grading.operands import HOLES

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Div: operator.truediv,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (abs, bool, frozenset, len, list, round, set, sorted, tuple)
}
# A set made here of values that collide on purpose would be quadratic.
_MOST_ITEMS = 2000
_NUMBERS = (int, float)


class Unjudged(Exception):
    """The expression is of a kind that is not evaluated here."""


def judge_here(statement: ast.expr, values: list[Any]) -> bool:
    """Whether the statement holds, with `values` in its holes.

    Raises:
        Unjudged: It has to be evaluated elsewhere.
        Exception: What evaluating it raised, as in any test.
    """
    return bool(_evaluate(statement, values))


def _evaluate(node: ast.expr, values: list[Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        items = [_evaluate(item, values) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items) if isinstance(node, ast.Tuple) else set(items)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {
            _evaluate(key, values): _evaluate(item, values)
            for key, item in zip(node.keys, node.values, strict=True)
            if key
        }
    if isinstance(node, ast.Compare):
        return _compare(node, values)
    if isinstance(node, ast.BoolOp):
        stop_at = isinstance(node.op, ast.Or)
        for part in node.values:
            value = _evaluate(part, values)
            if bool(value) is stop_at:
                break
        return value
    if isinstance(node, ast.UnaryOp):
        return _unary(node, values)
    if isinstance(node, ast.BinOp):
        return _arithmetic(node, values)
    if isinstance(node, ast.Call):
        return _call(node, values)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == HOLES:
        assert isinstance(node.slice, ast.Constant)
        return values[int(str(node.slice.value))]
    raise Unjudged


def _compare(node: ast.Compare, values: list[Any]) -> Any:
    left = _evaluate(node.left, values)
    held: Any = True
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        compare = _COMPARISONS.get(type(op))
        if compare is None:
            raise Unjudged
        right = _evaluate(right_node, values)
        held = compare(left, right)
        if not held:
            break
        left = right
    return held


def _unary(node: ast.UnaryOp, values: list[Any]) -> Any:
    value = _evaluate(node.operand, values)
    if isinstance(node.op, ast.Not):
        return not value
    if isinstance(node.op, ast.USub):
        return -value
    raise Unjudged


def _arithmetic(node: ast.BinOp, values: list[Any]) -> Any:
    apply = _ARITHMETIC.get(type(node.op))
    left, right = _evaluate(node.left, values), _evaluate(node.right, values)
    if apply is None or type(left) not in _NUMBERS or type(right) not in _NUMBERS:
        raise Unjudged
    return apply(left, right)


def _call(node: ast.Call, values: list[Any]) -> Any:
    arguments = [_evaluate(argument, values) for argument in node.args]
    options = {keyword.arg: _evaluate(keyword.value, values) for keyword in node.keywords if keyword.arg}
    if isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords:
        if any(
            isinstance(value, (list, tuple, str, bytes, set, frozenset, dict)) and len(value) > _MOST_ITEMS
            for value in arguments
        ):
            raise Unjudged
        return _FUNCTIONS[node.func.id](*arguments)
    if ast.unparse(node.func) == "math.isclose" and len(options) == len(node.keywords):
        return math.isclose(*arguments, **options)
    raise Unjudged
