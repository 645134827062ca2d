"""The ports as a user would have them: copied into the data folder and approved."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

from backend.approvals import Approvals
from tests.extending import approve_all

HERE = Path(__file__).parent


def install(folder: Path, *names: str) -> None:
    """Copy ports into ``folder/extensions`` and approve everything that lies there."""
    for name in names:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE / name, folder / "extensions" / name, ignore=ignored, dirs_exist_ok=True)
    approve_all(folder / "extensions", Approvals(folder / "extensions.json"))


def foreign_imports(name: str, *allowed: str) -> set[str]:
    """Modules of Easel that a port imports beside those that it may."""
    found: set[str] = set()
    for file in (HERE / name).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module or "")
    return {each for each in found if each.split(".")[0] in {"backend", "webui", "extensions", "tests"}} - set(allowed)
