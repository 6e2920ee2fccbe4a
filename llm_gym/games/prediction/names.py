"""The names and modules that a program of the prediction game may use.

This file itself checks a program, inside the sandbox: parsing can print warnings, and a text can exhaust the parser.
"""

import ast
import sys

MODULES = (
    *("bisect", "collections", "decimal", "fractions", "functools", "heapq", "itertools", "math", "operator", "re"),
    "string",
)
"""What a program may import: nothing that depends on the time or on random numbers."""
NAMES = ("compile", "eval", "exec", "getattr", "globals", "hash", "id", "input", "locals", "open", "vars")
"""What a program may not use: ways around the import rule, and addresses, which two runs may share by chance."""
_DEEPER_NAMES = {"__builtins__", "__import__", "__loader__", "__spec__"}
_ATTRIBUTES = {"__builtins__", "__dict__", "__globals__", "__subclasses__", "_os", "_sys", "modules", "os", "sys"}


def unfair_names(program: str) -> str:
    """Why the names in ``program`` are not fair; empty if they are, or if the program does not compile."""
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return next(filter(None, map(_unfair_node, ast.walk(tree))), "")


def _unfair_node(node: ast.AST) -> str:
    if isinstance(node, ast.Name) and (node.id in NAMES or node.id in _DEEPER_NAMES):
        return f"it uses {node.id}"
    if isinstance(node, ast.Attribute) and node.attr in _ATTRIBUTES:
        return f"it uses {node.attr}"
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = [alias.name for alias in node.names]
        modules = names if isinstance(node, ast.Import) else [node.module or "."]
        for module in modules:
            if module.partition(".")[0] not in MODULES:
                return f"it imports {module}"
        for name in names:
            if name in _ATTRIBUTES:
                return f"it imports {name}"
    return ""


if __name__ == "__main__":
    print(unfair_names(sys.stdin.read()))
