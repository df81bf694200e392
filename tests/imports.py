"""The modules of this package that a module imports, directly or not, early or late."""

import ast
from pathlib import Path


def modules(*entries: str, root: Path = Path()) -> set[str]:
    """Paths of all stages/ modules with code that the modules at the paths `entries` need, and theirs."""
    seen: set[str] = set()
    todo = list(entries)
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
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
    return {path for path in seen if _has_code(root / path)}


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
