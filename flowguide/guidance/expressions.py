"""Weights as expressions of time, such as '1 + sin(2*pi*t)'. Nothing is evaluated but arithmetic."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from ..errors import UsageError

CONSTANTS = {"pi": math.pi, "e": math.e}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "abs": abs, "ceil": math.ceil, "cos": math.cos, "exp": math.exp, "floor": math.floor, "log": math.log,
    "max": max, "min": min, "round": round, "sin": math.sin, "sqrt": math.sqrt, "tan": math.tan,
}  # fmt: skip
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: operator.mod, ast.Pow: operator.pow, ast.FloorDiv: operator.floordiv,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
LONGEST = 500
"""Characters of an expression at most."""


class Expression:
    """A number that depends on the time `t` in seconds."""

    def __init__(self, text: str):
        """Raises UsageError for anything but numbers, t, pi, e, + - * / // % **, comparisons, `a if b else c` and the
        functions of FUNCTIONS."""
        self.text = text.strip()
        try:
            if len(self.text) > LONGEST:
                raise ValueError(f"it is longer than {LONGEST} characters")
            self._tree = ast.parse(self.text, mode="eval").body
            _check(self._tree)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error) or "it is nested too deeply"
            raise UsageError(
                f"The weight {text!r} is no expression of t ({reason}); it may use numbers, t, pi, e, arithmetic and "
                f"{', '.join(FUNCTIONS)}."
            ) from error

    @property
    def is_constant(self) -> bool:
        """Whether t does not occur in it."""
        return not any(isinstance(node, ast.Name) and node.id == "t" for node in ast.walk(self._tree))

    def __call__(self, t: float) -> float:
        """Its value at `t` seconds. Raises UsageError that names t where it has none."""
        try:
            value = _value(self._tree, t)
        except ZeroDivisionError as error:
            raise UsageError(f"The weight {self.text!r} divides by zero at t = {t:g} s.") from error
        except (ArithmeticError, ValueError, TypeError) as error:
            raise UsageError(f"The weight {self.text!r} has no value at t = {t:g} s: {error.args[-1]}.") from error
        if isinstance(value, complex) or not math.isfinite(value):
            raise UsageError(f"The weight {self.text!r} is {value} at t = {t:g} s; it should be a finite number.")
        return float(value)


def _check(node: ast.expr) -> None:
    """Raises ValueError where `node` holds anything that is not allowed."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise ValueError(f"{node.value!r} is no number")
    elif isinstance(node, ast.Name):
        if node.id != "t" and node.id not in CONSTANTS:
            raise ValueError(f"it does not know {node.id!r}")
    elif isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords:
            raise ValueError("it calls something else than its functions")
        for argument in node.args:
            _check(argument)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        _check(node.left)
        _check(node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        _check(node.operand)
    elif isinstance(node, ast.Compare) and all(type(one) in _OPERATORS for one in node.ops):
        for part in (node.left, *node.comparators):
            _check(part)
    elif isinstance(node, ast.IfExp):
        for part in (node.test, node.body, node.orelse):
            _check(part)
    else:
        raise ValueError(f"{type(node).__name__} is not allowed in it")


def _value(node: ast.expr, t: float) -> Any:
    """The value of a checked `node`. Whole numbers are floats too: 9**9**9 then overflows at once."""
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return t if node.id == "t" else CONSTANTS[node.id]
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return FUNCTIONS[node.func.id](*(_value(argument, t) for argument in node.args))
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left, t), _value(node.right, t))
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, t)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Compare):
        values = [_value(part, t) for part in (node.left, *node.comparators)]
        return all(_OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, values, values[1:], strict=False))
    assert isinstance(node, ast.IfExp)
    return _value(node.body if _value(node.test, t) else node.orelse, t)
