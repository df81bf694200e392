"""The modules of this package that a stage imports, directly or not, early or late."""

import ast
from pathlib import Path

# Its effect on a stage is in the values it lets through, which DVC tracks as `params:`.
EXEMPT = {"stages/params.py"}


def modules(entry: str, root: Path = Path()) -> set[str]:
    """Paths of every stages/ module that the module at path `entry` needs, itself included."""
    found, todo = set(), [entry]
    while todo:
        path = todo.pop()
        if path in found or path in EXEMPT:
            continue
        found.add(path)
        for node in ast.walk(ast.parse((root / path).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages"):
                todo += [p for alias in node.names for p in _paths(f"{node.module}.{alias.name}", root)]
            elif isinstance(node, ast.Import):
                todo += [
                    p
                    for alias in node.names
                    if alias.name.startswith("stages.")
                    for p in _paths(alias.name, root)
                ]
    return {path for path in found if _has_code(root / path)}


def _paths(dotted: str, root: Path) -> list[str]:
    """The file of the module, or of the module that holds the name, and its packages' __init__.py."""
    parts = dotted.split(".")
    paths = []
    for end in range(1, len(parts) + 1):
        stem = "/".join(parts[:end])
        paths += [path for path in (f"{stem}.py", f"{stem}/__init__.py") if (root / path).exists()]
    return paths


def _has_code(path: Path) -> bool:
    """False for a file of nothing but a docstring, such as most __init__.py."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)
