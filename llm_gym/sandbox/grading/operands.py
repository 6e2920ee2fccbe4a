"""Splits an `assert` into what the solution computes and the rest, which is the test author's."""

from __future__ import annotations

import ast
import builtins
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

HOLES = "_holes"
# What may be applied to a value that is not plain data to make it so. None of these is a judgement.
# fmt: off
_CONVERSIONS = frozenset((
    "abs", "bytes", "complex", "dict", "float", "frozenset", "int", "len", "list", "max", "min", "next", "repr",
    "reversed", "round", "set", "sorted", "str", "sum", "tuple", "type",
))
# fmt: on
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class SplitTest:
    """One test, taken apart.

    Attributes:
        source: The test as it was given.
        operands: For each hole, the expressions that may fill it, the innermost first: the first whose value is plain
            data does.
    """

    source: str
    operands: list[list[str]]
    _expression: ast.expr
    _nodes: list[list[ast.expr]] = field(repr=False)
    _built: dict[tuple[int, ...], ast.expr] = field(default_factory=dict, repr=False)

    def with_holes(self, chosen: tuple[int, ...]) -> ast.expr:
        """The test's expression in which `_holes[i]` stands where form `chosen[i]` of operand `i` stood."""
        if chosen not in self._built:
            self._built[chosen] = self._with_holes(chosen)
        return self._built[chosen]

    def _with_holes(self, chosen: tuple[int, ...]) -> ast.expr:
        holes = {
            id(forms[which]): number for number, (forms, which) in enumerate(zip(self._nodes, chosen, strict=True))
        }
        rebuilt = _rebuilt(self._expression, holes)
        assert isinstance(rebuilt, ast.expr)
        return ast.fix_missing_locations(rebuilt)


@functools.lru_cache(maxsize=512)
def split_tests(tests: tuple[str, ...], imports: str) -> tuple[SplitTest, ...]:
    """Take tests of one solution apart; remembered, since many solutions meet the same tests.

    Args:
        tests: Each one `assert` statement.
        imports: Statements whose names are the author's, not the solution's.

    Raises:
        ValueError: A test is not one `assert` statement, or `imports` is not Python.
    """
    expressions = [_asserted(test) for test in tests]
    trusted = set(dir(builtins)) | {"math"} | _bound_by(imports)
    if expressions and not any(_foreign(expression, trusted) for expression in expressions):
        # The function under test has a built-in's name.
        trusted -= {name for expression in expressions for name in _first_innermost_call(expression)}
    return tuple(_split(test, expression, trusted) for test, expression in zip(tests, expressions, strict=True))


def operands_source(split: Iterable[SplitTest]) -> str:
    """All operands as one expression: for each test a tuple of operands, each a tuple of functions, one a form."""
    return _tuple(_tuple(_tuple(f"lambda: ({form})" for form in forms) for forms in test.operands) for test in split)


def _tuple(items: Iterable[str]) -> str:
    return f"({''.join(f'{item}, ' for item in items)})"


def _asserted(test: str) -> ast.expr:
    try:
        body = ast.parse(test.strip()).body
    except SyntaxError as error:
        raise ValueError(f"not an assert statement: {test!r}: {error.msg}") from None
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise ValueError(f"expected one assert statement, got {test!r}")
    return body[0].test


def _bound_by(imports: str) -> set[str]:
    try:
        tree = ast.parse(imports)
    except SyntaxError as error:
        raise ValueError(f"imports is not Python: {error.msg}") from None
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _foreign(node: ast.AST, trusted: set[str]) -> bool:
    """Whether a name of the solution occurs in it. Names bound by a comprehension or lambda in it do not count."""
    names = [inner for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    bound = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    bound |= {argument.arg for inner in ast.walk(node) if isinstance(inner, ast.Lambda) for argument in inner.args.args}
    return any(name.id not in trusted and name.id not in bound for name in names)


def _first_innermost_call(node: ast.expr) -> list[str]:
    calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name)]
    innermost = [
        call for call in calls if not any(isinstance(below, ast.Call) for below in ast.walk(call) if below is not call)
    ]
    innermost.sort(key=lambda call: (call.lineno, call.col_offset))
    return [call.func.id for call in innermost[:1] if isinstance(call.func, ast.Name)]


def _split(source: str, expression: ast.expr, trusted: set[str]) -> SplitTest:
    nodes = list(_holes(expression, trusted, []))
    forms = [[_text(node) for node in ladder] for ladder in nodes]
    for ladder, texts in zip(nodes, forms, strict=True):
        if _is_asked_for_truth(expression, ladder[-1]):
            # Any object at all has a truth value: the hole takes that where the object itself cannot be sent.
            texts.append(f"bool({texts[-1]})")
            ladder.append(ladder[-1])
    return SplitTest(source, forms, expression, nodes)


def _text(node: ast.expr) -> str:
    # A generator cannot be sent, what it yields can.
    return ast.unparse(ast.ListComp(node.elt, node.generators) if isinstance(node, ast.GeneratorExp) else node)


def _holes(node: ast.expr, trusted: set[str], above: list[ast.expr]) -> Iterator[list[ast.expr]]:
    """For each hole, its possible nodes from the innermost outwards; `above` holds the conversions around `node`."""
    if not _foreign(node, trusted):
        return
    if _is_hole(node, trusted):
        yield [node, *reversed(above)]
        return
    below = [node.generators[0].iter] if isinstance(node, _COMPREHENSIONS) else _expressions_below(node)
    children = [child for child in below if _foreign(child, trusted)]
    around = [*above, node] if len(children) == 1 and _converts(node, children[0]) else []
    for child in children:
        yield from _holes(child, trusted, around)


def _is_hole(node: ast.expr, trusted: set[str]) -> bool:
    if isinstance(node, ast.Lambda):
        return True
    if isinstance(node, _COMPREHENSIONS):
        # Where only what it runs over is the solution's, what it does with that is the author's.
        return any(_foreign(part, trusted) for part in _inner_parts(node))
    root: ast.expr = node.func if isinstance(node, ast.Call) else node
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id not in trusted


def _inner_parts(comprehension: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> list[ast.AST]:
    """All of it but its first iterable, with the names that it binds."""
    first, *others = comprehension.generators
    values = (
        [comprehension.key, comprehension.value] if isinstance(comprehension, ast.DictComp) else [comprehension.elt]
    )
    targets = [generator.target for generator in comprehension.generators]
    # One node, so that names bound in one part count as bound in all.
    return [
        ast.Tuple([*values, *targets, *first.ifs, *(part for o in others for part in (o.iter, *o.ifs))], ast.Load())
    ]


def _expressions_below(node: ast.AST) -> Iterator[ast.expr]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        else:
            yield from _expressions_below(child)


def _converts(node: ast.expr, child: ast.expr) -> bool:
    """Whether `node` makes something else of the solution's value in `child` without judging it."""
    if isinstance(node, ast.Call) and node.func is child:
        return True  # a method of that value
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _CONVERSIONS
    return isinstance(node, (ast.Subscript, ast.Attribute))


def _is_asked_for_truth(expression: ast.expr, node: ast.expr) -> bool:
    """Whether only the truth of `node` counts: it is all there is, or stands below `not`, `and` and `or` alone."""
    if expression is node:
        return True
    if isinstance(expression, ast.UnaryOp) and isinstance(expression.op, ast.Not):
        return _is_asked_for_truth(expression.operand, node)
    if isinstance(expression, ast.BoolOp):
        return any(_is_asked_for_truth(value, node) for value in expression.values)
    return False


def _rebuilt(node: ast.AST, holes: dict[int, int]) -> ast.AST:
    """A copy in which the nodes named by identity are holes."""
    if id(node) in holes:
        return ast.Subscript(ast.Name(HOLES, ast.Load()), ast.Constant(holes[id(node)]), ast.Load())

    def copied(value: object) -> object:
        if isinstance(value, list):
            return [copied(item) for item in value]
        return _rebuilt(value, holes) if isinstance(value, ast.AST) else value

    return type(node)(**{name: copied(value) for name, value in ast.iter_fields(node)})
