"""Extensions are found, checked, imported and called one by one; what one does wrong stays its own."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from backend import hookspecs
from backend.approvals import Approvals
from backend.errors import BadRequest
from backend.hookspecs import hookimpl
from backend.importing import LOOSE_PACKAGE
from backend.manifest import folder_hash
from backend.plugins import STRIKES, ExtensionFailed, Plugins
from tests.extending import approve_all, forget_loose_extensions, write_extension

GOOD = (
    "from backend.hookspecs import hookimpl\n\n@hookimpl\ndef on_shutdown():\n    calls.append('{0}')\n\ncalls = []\n"
)


@pytest.fixture(autouse=True)
def forget_modules():
    yield
    forget_loose_extensions()


class Place:
    """A folder of loose extensions with its approvals."""

    def __init__(self, folder):
        self.folder = folder / "extensions"
        self.approvals = Approvals(folder / "extensions.json")
        self.diary = folder / ".importing"

    def write(self, name, code="", **options):
        return write_extension(self.folder, name, code or GOOD.format(name), **options)

    def load(self, *, approve=True) -> Plugins:
        if approve:
            approve_all(self.folder, self.approvals)
        plugins = Plugins(hookspecs, "engine")
        plugins.load(self.folder / "none", [self.folder], self.approvals, self.diary)
        return plugins

    def statuses(self, **options):
        return {name: extension.status for name, extension in self.load(**options).extensions.items()}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_new_extension_waits_and_a_changed_byte_makes_it_wait_again(place):
    home = place.write("alpha")
    assert place.statuses(approve=False) == {"alpha": "new"}
    assert place.statuses() == {"alpha": "on"}
    (home / "data.txt").write_text("x")
    assert place.statuses(approve=False) == {"alpha": "changed"}
    assert folder_hash(home) != place.approvals.read()["on"]["alpha"]
    assert not [name for name in sys.modules if name == f"{LOOSE_PACKAGE}.alpha.data"]


def test_a_change_in_tests_asks_again_and_what_tools_leave_behind_does_not(place):
    home = place.write("alpha")
    assert place.statuses() == {"alpha": "on"}
    for folder in (".pytest_cache", "__pycache__", ".git"):
        (home / folder).mkdir()
        (home / folder / "left").write_text("x")
    assert place.statuses(approve=False) == {"alpha": "on"}
    (home / "tests").mkdir()
    (home / "tests" / "steps.py").write_text("")
    assert place.statuses(approve=False) == {"alpha": "changed"}


def test_a_link_to_a_folder_within_an_extension_is_refused_and_a_linked_extension_is_not(place, tmp_path):
    place.write("alpha")
    (place.folder / "alpha").rename(tmp_path / "alpha")
    (place.folder / "alpha").symlink_to(tmp_path / "alpha")
    assert place.statuses() == {"alpha": "on"}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "alpha" / "lib").symlink_to(tmp_path / "elsewhere")
    assert place.load(approve=False).extensions["alpha"].status == "refused"


@pytest.mark.parametrize(("line", "words"), [
    ('engin = "hooks"', "Did you mean 'engine'?"),
    ('requires = "numpy"', 'a list, ["of", "texts"]'),
    ('requires = ["no requirement!"]', "'no requirement!' is no requirement"),
    ("description = 2", 'it must be text, "in quotes"'),
    ('web = "a/b"', "a module's name, without a path"),
])  # fmt: skip
def test_a_fault_of_a_manifest_is_told_as_its_author_would_say_it(place, line, words):
    place.write("alpha", more=line)
    assert words in place.load(approve=False).extensions["alpha"].reason


def test_a_manifest_without_a_module_says_how_one_is_named(place):
    home = place.write("alpha")
    (home / "extension.toml").write_text('name = "alpha"\napi = ">=1,<2"\n')
    assert 'it names no module of its own; write engine = "hooks"' in place.load().extensions["alpha"].reason


def test_a_table_of_pyproject_is_a_manifest_which_the_project_completes(place):
    home = place.write("film_grain")
    (home / "extension.toml").unlink()
    (home / "pyproject.toml").write_text(
        '[project]\nname = "film-grain"\nversion = "2.1"\ndescription = "Grain."\ndependencies = ["numpy>=1"]\n'
        '[tool.easel.extension]\napi = ">=1,<2"\nengine = "hooks"\n'
    )
    extension = place.load().extensions["film_grain"]
    assert extension.status == "on"
    manifest = extension.found.manifest
    assert (manifest.title, manifest.version, manifest.description) == ("film_grain", "2.1", "Grain.")
    assert manifest.requires == ("numpy>=1",)


def test_a_fault_in_the_table_of_pyproject_names_that_file(place):
    home = place.write("alpha")
    (home / "extension.toml").unlink()
    (home / "pyproject.toml").write_text('[tool.easel.extension]\nname = "alpha"\napi = ">=1"\nengin = "hooks"\n')
    assert place.load().extensions["alpha"].reason.startswith("pyproject.toml of alpha: the key 'engin'")


def test_a_folder_among_the_extensions_that_is_none_is_listed_with_the_reason(place):
    (place.folder / "notes").mkdir(parents=True)
    (place.folder / "notes" / "pyproject.toml").write_text("[tool.other]\n")
    write_extension(place.folder / "grain-main", "grain", GOOD.format("grain"))
    found = place.load(approve=False).extensions
    assert found["notes"].status == "refused"
    assert "notes has no extension.toml, and no pyproject.toml with [tool.easel.extension]" in found["notes"].reason
    assert "It is the folder grain in it that belongs here." in found["grain-main"].reason


def test_a_manifest_of_a_windows_editor_is_read(place):
    home = place.write("alpha")
    manifest = home / "extension.toml"
    manifest.write_bytes(b"\xef\xbb\xbf" + manifest.read_bytes().replace(b"\n", b"\r\n"))
    assert place.statuses() == {"alpha": "on"}


def test_a_module_that_is_not_there_is_told_with_those_that_are(place):
    home = place.write("alpha")
    (home / "extension.toml").write_text('name = "alpha"\ntitle = "A"\napi = ">=1"\nengine = "hooks.py"\n')
    reason = place.load().extensions["alpha"].reason
    assert "'hooks.py', which is not in its folder" in reason
    assert "there: hooks" in reason


@pytest.mark.parametrize(("code", "words"), [
    ("raise ValueError('no')", "ValueError: no"),
    ("import sys\nsys.exit(3)", "SystemExit: 3"),
    ("import not_there_at_all", "needs the Python module not_there_at_all"),
    ("def broken(:", "SyntaxError"),
    ("from backend.hookspecs import hookimpl\n@hookimpl\ndef on_startap(): ...", "on_startap is no hook"),
    ("from backend.hookspecs import hookimpl\n@hookimpl\ndef on_startap(): ...", "mean 'on_startup'?"),
    ("from backend.hookspecs import hookimpl\n@hookimpl\ndef on_startup(folder): ...",
     "is not given 'folder'. It may take data_folder."),
    ("def on_startup(data_folder): ...", "on_startup has a hook's name and is not marked as one. Write @hookimpl"),
    ("import manners", "is a module of its own. Write: from . import manners"),
])  # fmt: skip
def test_what_cannot_be_imported_is_listed_with_the_reason_and_stops_nobody(place, code, words):
    place.write("bad", code)
    (place.folder / "bad" / "manners.py").touch()
    place.write("good")
    plugins = place.load()
    assert plugins.extensions["bad"].status == "failed"
    assert words in plugins.extensions["bad"].reason
    assert plugins.implementers("on_shutdown") == ["good"]
    assert not place.diary.exists()


def test_manifests_of_another_api_or_with_faults_are_refused(place):
    place.write("future", api=">=2")
    place.write("odd", more='colour = "red"')
    place.write("ranged", api="one")
    plugins = place.load()
    assert {name: extension.status for name, extension in plugins.extensions.items()} == dict.fromkeys(
        ("future", "odd", "ranged"), "refused"
    )
    assert "written for API >=2" in plugins.extensions["future"].reason
    assert "colour" in plugins.extensions["odd"].reason


def test_conflicts_and_order_follow_the_manifests(place):
    place.write("alpha", more='after = ["gamma"]')
    place.write("beta", more='conflicts = ["alpha"]')
    place.write("gamma")
    place.write("delta", more='before = ["gamma"]')
    plugins = place.load()
    assert plugins.extensions["beta"].status == "refused"
    assert "alpha" in plugins.extensions["beta"].reason
    assert plugins.implementers("on_shutdown") == ["delta", "gamma", "alpha"]


def test_an_import_that_never_came_back_is_left_out_until_it_is_switched_on_again(place):
    place.write("alpha")
    place.write("beta")
    approve_all(place.folder, place.approvals)
    place.diary.write_text(json.dumps({"importing": "alpha"}))
    assert place.statuses(approve=False) == {"alpha": "crashed", "beta": "on"}
    assert not place.diary.exists()
    assert place.statuses(approve=False) == {"alpha": "crashed", "beta": "on"}  # and so until it is switched on again
    assert place.statuses() == {"alpha": "on", "beta": "on"}


def own(plugins: Plugins, name: str, **hooks) -> ModuleType:
    """Put functions in place of an extension's hooks."""
    extension = plugins.extensions[name]
    plugins._manager.unregister(extension.module)
    module = ModuleType(name)
    for hook, function in hooks.items():
        function.__name__ = hook
        setattr(module, hook, hookimpl(function))
    extension.module = module
    plugins._register(extension)
    return module


def test_a_job_hook_that_fails_fails_the_job_and_is_named(place):
    place.write("alpha")
    plugins = place.load()

    def explode(job):
        raise ZeroDivisionError("x / 0")

    def refuse(job):
        raise BadRequest("Not with this picture.")

    own(plugins, "alpha", expand_job=explode)
    with pytest.raises(ExtensionFailed, match=r"alpha failed in expand_job: ZeroDivisionError: x / 0"):
        plugins.call("expand_job", "alpha", job=None)
    own(plugins, "alpha", expand_job=refuse)
    with pytest.raises(BadRequest, match="Not with this picture"):
        plugins.call("expand_job", "alpha", job=None)
    own(plugins, "alpha", expand_job=lambda job: sys.exit(1))
    with pytest.raises(ExtensionFailed, match="SystemExit"):
        plugins.call("expand_job", "alpha", job=None)
    assert plugins.extensions["alpha"].calls == {"expand_job": 3}


def test_an_observer_that_fails_three_times_is_no_longer_called(place):
    place.write("alpha")
    place.write("beta")
    plugins = place.load()
    told = []

    def complain(name):
        told.append(name)
        raise RuntimeError("no")

    own(plugins, "alpha", model_loaded=complain)
    own(plugins, "beta", model_loaded=lambda name: told.append(name.upper()))
    for _ in range(STRIKES + 2):
        plugins.observe("model_loaded", name="xl", part="vae")
    assert told == ["xl", "XL"] * STRIKES + ["XL", "XL"]
    assert "off until the next start" in plugins.extensions["alpha"].reason


def test_a_registry_hook_that_returns_something_else_switches_its_extension_off(place):
    place.write("alpha")
    place.write("beta")
    plugins = place.load()
    own(plugins, "alpha", register_samplers=lambda: ["euler"])
    own(plugins, "beta", register_samplers=lambda: 7)
    assert list(plugins.registered("register_samplers", dict)) == []
    assert "returned a str instead of a dict" in plugins.extensions["alpha"].reason
    assert plugins.extensions["beta"].status == "failed"


def test_the_same_name_twice_is_an_error_that_names_both_places(place, tmp_path):
    place.write("alpha")
    other = write_extension(tmp_path / "more", "alpha", GOOD.format("alpha"))
    approve_all(place.folder, place.approvals)
    plugins = Plugins(hookspecs, "engine")
    plugins.load(place.folder / "none", [place.folder, tmp_path / "more"], place.approvals, place.diary)
    second = plugins.extensions[f"alpha ({other})"]
    assert (plugins.extensions["alpha"].status, second.status) == ("on", "refused")
    assert str(other) in second.reason


def test_what_ships_is_asked_for_its_names_before_what_was_added(place):
    for name in ("alpha", "beta"):
        place.write(
            name, f"from backend.hookspecs import hookimpl\n@hookimpl\ndef register_samplers(): return ['{name}']\n"
        )
    plugins = place.load()
    shipped = plugins.extensions["beta"]
    shipped.found = replace(shipped.found, is_bundled=True)
    assert [spec for _, spec in plugins.registered("register_samplers", str)] == ["beta", "alpha"]


def test_a_registry_that_returns_one_spec_instead_of_a_list_is_told_so(place):
    place.write("alpha", "from backend.hookspecs import hookimpl\n@hookimpl\ndef register_samplers(): return 3\n")
    plugins = place.load()
    assert not list(plugins.registered("register_samplers", str))
    assert "it returned int, no list of str" in plugins.extensions["alpha"].reason
