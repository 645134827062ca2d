"""Ports are ordinary extensions: they import the public api of their process alone, and the README tells them truly."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.hook_pages import hooks, users
from tests.ports.place import HERE, foreign_imports

PORTS = sorted(manifest.parent.name for manifest in HERE.glob("*/extension.toml"))
APIS = {"engine": "backend.api", "web": "webui.api"}
ROW = re.compile(r"^\| (?:\[`(\w+)`\]\(\w+\)|`(\w+)`, \[shipped\]\(\S+\)) \|[^|]+\|([^|]+)\|[^|]+\|$", re.MULTILINE)


def rows():
    """The table of the README: the hooks that it names, by port."""
    told = ROW.findall((HERE / "README.md").read_text(encoding="utf-8"))
    return {port or shipped: re.findall(r"`(\w+)`", named) for port, shipped, named in told}


@pytest.mark.parametrize("name", PORTS)
def test_a_port_imports_the_public_api_of_its_process_alone(name):
    manifest = tomllib.loads((HERE / name / "extension.toml").read_text(encoding="utf-8"))
    apis = [api for side, api in APIS.items() if side in manifest]
    assert apis
    assert foreign_imports(name, *apis) == set()
    for file in (HERE / name).rglob("*.py"):  # what both sides share knows neither
        text = file.read_text(encoding="utf-8")
        assert sum(api in text for api in APIS.values()) <= 1, file


def test_the_readme_has_a_row_for_each_port_with_all_its_hooks():
    told = rows()
    assert sorted(told) == sorted([*PORTS, "guidance"])
    for port, named in told.items():
        owner = "guidance" if port == "guidance" else f"tests/ports/{port}"
        assert set(named) == {hook.name for hook in hooks() if owner in users(hook)}, port
        assert len(named) == len(set(named)), port
