"""Evaluates conditions on trials for `--where`: a small part of Python's expressions, which is parsed, never executed.

    params.lr > 0.01 and state == "FINISHED"
    0.001 <= lr <= 0.1 and not model in ("mlp", "logistic")
    metrics["val/accuracy"] > 0.9 or "bs=100" in name
    nesterov == true and model.hidden in ([64], [128, 64])

Values have types, as in YAML: `true`, `null`, numbers, texts in quotes, lists; 1 is not `true`, and "1" is not 1.
A name with other characters than letters can be put in backticks or brackets. A comparison with a missing value is
false, except for `!=` and `not in`; `params.momentum == None` finds missing values.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable
from functools import reduce
from typing import Any

import pandas as pd

from sweepstack.errors import UserError
from sweepstack.results.tables.columns import find_column
from sweepstack.results.tables.columns import kind as kind_of

RULE = "a condition compares params, metrics, state or name with values, joined by and, or, not"
EXAMPLE = """for example --where 'params.lr > 0.01 and metrics["val/accuracy"] > 0.9'"""
COLUMN = "column"
"""The name before brackets that stand for any column."""
BACKTICKS = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?:\b(params|metrics)\s*\.\s*)?`([^`]+)`""")
"""Matches a quoted text, or a name in backticks."""
CONSTANTS = {"true": True, "false": False, "null": None}
"""Constants as YAML writes them."""
KIND_NAMES = {
    "bool": "true and false",
    "number": "numbers",
    "text": "text, which is written in quotes",
    "list": "lists, such as [128, 64]",
}
"""What a user reads about the values of each kind."""
COMPARISONS: dict[type[ast.cmpop], tuple[Callable[[Any, Any], Any], type[ast.cmpop]]] = {
    ast.Eq: (operator.eq, ast.Eq),
    ast.NotEq: (operator.ne, ast.NotEq),
    ast.Lt: (operator.lt, ast.Gt),
    ast.LtE: (operator.le, ast.GtE),
    ast.Gt: (operator.gt, ast.Lt),
    ast.GtE: (operator.ge, ast.LtE),
}
"""The function of each operator, and the operator to use when the sides are exchanged."""

Truth = pd.Series
"""A bool for each trial."""


def fulfilled(frame: pd.DataFrame, text: str) -> Truth:
    """Finds which trials of a table fulfil a condition.

    Raises:
        UserError: the condition cannot be read, names an unknown column, or compares a number with a text.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about invalid escapes in a user's strings
            tree = ast.parse(BACKTICKS.sub(_in_brackets, text.strip()), mode="eval").body
        return _Evaluator(frame, text).truth(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(RULE, text, EXAMPLE) from None


def _in_brackets(found: re.Match[str]) -> str:
    quoted, section, name = found.groups()
    return quoted or f"{section or COLUMN}[{name!r}]"


class _Evaluator:
    """Evaluates the parsed condition on a table."""

    def __init__(self, frame: pd.DataFrame, text: str) -> None:
        self._frame = frame
        self._text = text

    def truth(self, node: ast.expr) -> Truth:
        match node:
            case ast.BoolOp(op=ast.And()):
                return reduce(operator.and_, map(self.truth, node.values))
            case ast.BoolOp():
                return reduce(operator.or_, map(self.truth, node.values))
            case ast.UnaryOp(op=ast.Not()):
                return ~self.truth(node.operand)
            case ast.Compare():
                sides = [node.left, *node.comparators]
                pairs = zip(sides, node.ops, sides[1:], strict=False)
                return reduce(operator.and_, [self._comparison(*pair) for pair in pairs])
        raise self._refusal(node, "it compares nothing")

    def _comparison(self, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> Truth:
        kind = {ast.Is: ast.Eq, ast.IsNot: ast.NotEq}.get(type(sign), type(sign))
        one, other = self._side(left), self._side(right)
        if kind in (ast.In, ast.NotIn):
            found = self._membership(one, other, left, right)
            return ~found if kind is ast.NotIn else found
        if not isinstance(one, pd.Series):
            one, other, left, right, kind = other, one, right, left, COMPARISONS[kind][1]
        if not isinstance(one, pd.Series) or (isinstance(other, tuple) and kind not in (ast.Eq, ast.NotEq)):
            raise self._refusal(left, "one side must be a param, a metric, state or name, the other a single value")
        if other is None and kind in (ast.Eq, ast.NotEq):
            return one.isna() if kind is ast.Eq else one.notna()
        self._refuse_other_kinds(one, other, right)
        values = other if isinstance(other, pd.Series) else pd.Series([other] * len(one), one.index, "object")
        compare = COMPARISONS[kind][0]
        pairs = zip(one.astype("object"), values.astype("object"), strict=True)
        return pd.Series([_holds(compare, *pair, kind is ast.NotEq) for pair in pairs], one.index, "bool")

    def _membership(self, one: Any, other: Any, left: ast.expr, right: ast.expr) -> Truth:
        if isinstance(one, pd.Series) and isinstance(other, tuple):
            for value in other:
                if value is not None:
                    self._refuse_other_kinds(one, value, right)
            found = [any(_holds(operator.eq, each, value, False) for value in other) for each in one.astype("object")]
            return pd.Series(found, one.index, "bool") | (one.isna() if None in other else False)
        if isinstance(one, str) and isinstance(other, pd.Series) and "text" in set(other.map(kind_of)):
            return other.map(lambda value: isinstance(value, str) and one in value).astype(bool)
        raise self._refusal(left, "in takes a list, such as lr in (0.01, 0.1), or a part of a text: 'lr=0.1' in name")

    def _side(self, node: ast.expr) -> Any:
        """Returns a column, a constant, or a list of constants as a tuple."""
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str()):
                return node.value
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as value)):
                return -value if isinstance(sign, ast.USub) else value
            case ast.List() | ast.Tuple() | ast.Set():
                values = tuple(self._side(part) for part in node.elts)
                if any(isinstance(value, pd.Series) for value in values):
                    raise self._refusal(node, "a list must hold values: numbers, texts in quotes, true, false, null")
                return values
            case ast.Name(id=word) if word in CONSTANTS and word not in self._frame:
                return CONSTANTS[word]
        return self._frame[find_column(self._frame, self._name(node))]

    def _name(self, node: ast.expr) -> str:
        """Returns a name. A / is part of a name, because a condition cannot divide."""
        match node:
            case ast.Name():
                return node.id
            case ast.Attribute():
                return f"{self._name(node.value)}.{node.attr}"
            case ast.BinOp(op=ast.Div()):
                return f"{self._name(node.left)}/{self._name(node.right)}"
            case ast.Subscript(value=ast.Name(id=section), slice=ast.Constant(value=str() as name)):
                if section in ("params", "metrics", COLUMN):
                    return name if section == COLUMN else f"{section}.{name}"
        raise self._refusal(node, "it is neither a name nor a value")

    def _refuse_other_kinds(self, column: pd.Series[Any], value: Any, node: ast.expr) -> None:
        """Refuses a value, or another column, that has no kind in common with the column, such as number and text."""
        if pd.api.types.is_datetime64_any_dtype(column):
            raise self._refusal(node, f"{column.name} holds times, which are not compared here")
        kinds = set(column.astype("object").map(kind_of)) - {""}
        others = set(value.astype("object").map(kind_of)) - {""} if isinstance(value, pd.Series) else {kind_of(value)}
        if kinds and others and not kinds & others:
            raise self._refusal(node, f"{column.name} holds {' and '.join(KIND_NAMES[kind] for kind in sorted(kinds))}")

    def _refusal(self, node: ast.expr, why: str) -> UserError:
        return UserError(f"{RULE}; got {ast.unparse(node)} in {self._text!r}: {why}", remedy=EXAMPLE)


def _holds(compare: Callable[[Any, Any], Any], one: Any, other: Any, unlike: bool) -> bool:
    """Compares two values; returns `unlike` if they cannot be compared."""
    if kind_of(one) != kind_of(other) or kind_of(one) == "":
        return unlike
    try:
        return bool(compare(one, other))
    except TypeError:  # lists with values of different kinds
        return unlike
