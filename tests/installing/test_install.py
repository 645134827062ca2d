"""``easel extension install``: what an extension needs comes beside Easel's packages and never in their place."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from backend import hookspecs
from backend.approvals import Approvals
from backend.importing import LOOSE_PACKAGE
from backend.plugins import Plugins
from backend.records.folders import WORK, recover_folders
from tests.extending import MANIFEST, write_extension
from tests.installing.packages import write_sdist, write_wheel
from webui import hookspecs as web_hookspecs
from webui.commands import easel

ROOT = Path(__file__).parents[2]
USING = "import {0}\nfrom backend.api import hookimpl\n\nfound = {0}.version\n\n@hookimpl\ndef on_shutdown(): ...\n"
PLAIN = "from backend.api import hookimpl\n\n@hookimpl\ndef on_shutdown(): ...\n"


class Place:
    """A data folder, a folder of packages that pip finds, and a folder of an author's work."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.links = folder / "links"
        self.work = folder / "work"
        self.links.mkdir()

    @property
    def extensions(self) -> Path:
        return self.data / "extensions"

    def run(self, *arguments: str):
        done = CliRunner().invoke(easel, ["extension", *arguments, "--data-dir", str(self.data)])
        left = self.extensions / WORK
        assert not left.exists(), list(left.rglob("*"))
        return done

    def source(self, name: str, *requires: str, code: str = PLAIN, **options: str) -> Path:
        return write_extension(self.work, name, code, more=f"requires = {json.dumps(requires)}", **options)

    def install(self, name: str, *requires: str, code: str = PLAIN):
        return self.run("install", str(self.source(name, *requires, code=code)))

    def status(self, name: str) -> tuple[str, str]:
        rows = json.loads(self.run("list", "--json").stdout)["extensions"]
        row = next(row for row in rows if row["name"] == name)
        return row["status"], row["reason"]

    def load(self) -> Plugins:
        plugins = Plugins(hookspecs, "engine")
        plugins.load(self.data / "none", [self.extensions], Approvals(self.data / "extensions.json"), self.data / ".i")
        return plugins


@pytest.fixture
def place(tmp_path, monkeypatch):
    before, modules = list(sys.path), set(sys.modules)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    yield Place(tmp_path)
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name.split(".")[0] in {LOOSE_PACKAGE, "libfoo", "libbar", "packaged"}:
            del sys.modules[name]


def test_requirements_and_what_they_need_come_into_the_extensions_own_folder(place):
    write_wheel(place.links, "libfoo", "1.0", requires=["libbar>=1", "numpy"])
    write_wheel(place.links, "libbar", "1.5")
    write_wheel(place.links, "numpy", "99.0")  # would be newer, but is there already
    done = place.install("alpha", "libfoo", "torch>=2", code=USING.format("libfoo"))
    assert done.exit_code == 0, done.output
    site = place.extensions / "alpha" / "site-packages"
    assert sorted(path.name for path in site.glob("*.dist-info")) == ["libbar-1.5.dist-info", "libfoo-1.0.dist-info"]
    assert "Its own packages: libbar 1.5, libfoo 1.0." in done.output
    assert place.status("alpha")[0] == "new"
    assert place.load().extensions["alpha"].status == "new"
    assert str(site) not in sys.path

    assert place.run("enable", "alpha").exit_code == 0
    loaded = place.load().extensions["alpha"]
    assert (loaded.status, loaded.module.found) == ("on", "1.0"), loaded.reason
    assert sys.path[-1] == str(site)
    (site / "libfoo" / "__init__.py").write_text("version = 'another'\n")
    assert place.status("alpha")[0] == "changed"


def test_a_requirement_that_would_change_a_core_package_is_refused_with_both_versions(place):
    here = importlib.metadata.version("numpy")
    write_wheel(place.links, "numpy", "0.9")
    done = place.install("alpha", "numpy<1")
    assert done.exit_code == 2
    assert f"alpha needs numpy<1, but Easel itself has numpy {here}" in done.stderr
    write_wheel(place.links, "libold", "1.0", requires=["numpy<1"])
    done = place.install("beta", "libold")
    assert f"beta needs libold 1.0, which needs numpy<1, but Easel itself has numpy {here}" in done.stderr
    done = place.install("gamma", f"numpy @ {(place.links / 'numpy-0.9-py3-none-any.whl').as_uri()}")
    assert "Easel itself has numpy" in done.stderr
    assert not list(place.extensions.iterdir())


def test_a_requirement_that_clashes_with_another_extensions_is_refused_with_both_versions(place):
    for version in ("1.0", "2.0"):
        write_wheel(place.links, "libfoo", version)
    assert place.install("alpha", "libfoo==1.0").exit_code == 0
    done = place.install("beta", "libfoo==2")
    assert done.exit_code == 2
    assert "beta needs libfoo==2, but the extension alpha has libfoo 1.0" in done.stderr
    assert not (place.extensions / "beta").exists()
    done = place.install("gamma", "libfoo")  # any version: the one that is there
    assert "Its own packages: libfoo 1.0." in done.output, done.output
    assert place.run("remove", "alpha").exit_code == 0
    assert place.run("remove", "gamma").exit_code == 0
    assert place.run("install", str(place.work / "beta")).exit_code == 0
    done = place.install("delta", "libfoo!=2.0")
    assert "libfoo!=2.0, but the extension beta has libfoo 2.0" in done.stderr


def test_the_old_one_stays_until_the_new_is_whole_and_an_upgrade_waits_for_approval(place):
    write_wheel(place.links, "libfoo", "1.0")
    source = place.source("alpha", "libfoo", code=USING.format("libfoo"))
    assert place.run("install", str(source), "--enable").exit_code == 0
    assert place.status("alpha")[0] == "on"
    manifest = (source / "extension.toml").read_text()
    (source / "extension.toml").write_text(manifest.replace("libfoo", "not-there-at-all"))
    done = place.run("install", str(source))
    assert done.exit_code == 2
    assert "No matching distribution found for not-there-at-all" in done.stderr
    assert place.status("alpha")[0] == "on"

    (source / "extension.toml").write_text(manifest.replace("1.0", "2.0"))
    done = place.run("install", str(source))
    assert "in place of version 1.0" in done.output, done.output
    assert place.status("alpha")[0] == "changed"
    assert place.run("remove", "alpha").exit_code == 0
    assert "alpha" not in Approvals(place.data / "extensions.json").read()["on"]
    assert not list(place.extensions.iterdir())


def test_an_installation_that_is_killed_leaves_the_old_one_and_the_next_clears_up(place):
    write_wheel(place.links, "libfoo", "1.0")
    source = place.source("alpha", "libfoo")
    assert place.run("install", str(source), "--enable").exit_code == 0
    slow = "import time\nopen({0!r}, 'w').close()\ntime.sleep(60)\n"
    sdist = place.work / "slow"
    sdist.mkdir()
    mark = place.work / "began"
    (sdist / "made.py").write_text(slow.format(str(mark)))
    (sdist / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "made"\nbackend-path = ["."]\n'
        '[project]\nname = "slow"\nversion = "1"\n'
    )
    text = (source / "extension.toml").read_text()
    (source / "extension.toml").write_text(text.replace('"libfoo"', f'"libfoo", "slow @ {sdist.as_uri()}"'))
    command = [sys.executable, "-m", "webui", "extension", "install", str(source), "--data-dir", str(place.data)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not mark.exists():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    busy = CliRunner().invoke(easel, ["extension", "remove", "alpha", "--data-dir", str(place.data)])
    assert f"Another installation is running (process {process.pid})" in busy.stderr
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (place.extensions / WORK).is_dir()
    listed = CliRunner().invoke(easel, ["extension", "list", "--json", "--data-dir", str(place.data)])
    rows = {row["name"]: row["status"] for row in json.loads(listed.stdout)["extensions"]}
    assert rows["alpha"] == "on"
    assert "slow" not in rows
    (source / "extension.toml").write_text(text)
    assert place.run("install", str(source)).exit_code == 0  # and WORK is gone


def test_a_swap_that_is_killed_between_its_two_renames_is_undone_at_the_next_start(place):
    home = write_extension(place.extensions, "alpha", PLAIN)
    room = place.extensions / WORK / "abcd"
    (room / "old").mkdir(parents=True)
    (room / "new" / "alpha").mkdir(parents=True)
    home.rename(room / "old" / "alpha")
    recover_folders(place.extensions)
    assert (home / "hooks.py").read_text() == PLAIN
    assert not (place.extensions / WORK).exists()


@pytest.mark.parametrize("kind", ["wheel", "sdist", "by name", "project"])
def test_a_package_with_an_entry_point_is_installed_and_imported_by_its_own_name(place, kind):
    write_wheel(place.links, "libfoo", "1.0")
    files = {
        "packaged/__init__.py": "",
        "packaged/extension.toml": MANIFEST.format(
            name="packaged", api=">=1,<2", side="engine", more='requires = ["libfoo"]'
        ),
        "packaged/hooks.py": "from packaged.words import word\n" + USING.format("libfoo"),
        "packaged/words.py": "word = 'yes'\n",
    }
    if kind == "wheel":
        what = str(write_wheel(place.work, "packaged", "1.0", files=files, entry="packaged"))
    elif kind == "by name":
        write_wheel(place.links, "packaged", "1.0", requires=["libfoo"], files=files, entry="packaged")
        what = "packaged>=1"
    else:
        what = str(write_sdist(place.work, "packaged", "1.0", files=files, entry="packaged"))
    if kind == "project":
        import tarfile

        with tarfile.open(what) as archive:
            archive.extractall(place.work, filter="data")
        what = str(place.work / "packaged-1.0")
    done = place.run("install", what, "--enable")
    assert done.exit_code == 0, done.output
    assert "Its own packages: libfoo 1.0, packaged 1.0." in done.output
    loaded = place.load().extensions["packaged"]
    assert (loaded.status, loaded.module.word, loaded.module.found) == ("on", "yes", "1.0"), loaded.reason
    assert place.load().extensions.keys() == {"packaged"}  # though its entry point is on the path by now
    (place.extensions / "packaged" / "site-packages" / "packaged" / "words.py").write_text("word = 'no'\n")
    assert place.status("packaged")[0] == "changed"
    assert place.run("remove", "packaged").exit_code == 0


@pytest.mark.parametrize("top", ["", "zipped/", "some-branch/"])
def test_a_zip_of_a_folder_is_installed(place, top):
    source = place.source("zipped")
    archive = place.work / "download.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in source.iterdir():
            file.write(path, f"{top}{path.name}")
    done = place.run("install", str(archive))
    if top == "some-branch/":
        assert "calls itself zipped" in done.stderr
        return
    assert done.exit_code == 0, done.output
    assert (place.extensions / "zipped" / "hooks.py").read_text() == PLAIN


def test_what_is_no_extension_is_refused_with_the_reason(place):
    (place.work / "empty").mkdir(parents=True)
    cases = {
        str(place.work / "empty"): "is no extension: it has no extension.toml",
        str(place.work / "nowhere" / "x"): "is no file, no folder and no name of a package",
        "not-there-at-all": "No matching distribution found for not-there-at-all",
        str(write_wheel(place.work, "libfoo", "1.0")): "The package libfoo is no extension of Easel",
        "pillow<3": "pillow 12",
    }
    broken = place.work / "broken"
    broken.mkdir()
    (broken / "extension.toml").write_text("name = ")
    cases[str(broken)] = "is not valid TOML"
    (place.work / "cut.zip").write_bytes(b"PK\3\4 cut")
    cases[str(place.work / "cut.zip")] = "cannot be installed"
    cases[str(write_extension(place.work, "guidance", PLAIN))] = "An extension called guidance ships with Easel"
    cases[str(write_extension(place.work, "too_new", PLAIN, api=">=2"))] = "was written for API >=2"
    for what, words in cases.items():
        done = place.run("install", what)
        assert done.exit_code == 2, (what, done.output)
        assert words in done.stderr
    assert not list(place.extensions.iterdir())


def test_a_missing_dependency_is_told_with_what_to_do(place):
    write_extension(place.extensions, "alpha", "import libfoo\n", more='requires = ["libfoo>=1"]')
    write_extension(place.extensions, "beta", "import libfoo\n")
    for name in ("alpha", "beta"):
        assert place.run("enable", name).exit_code == 0
    extensions = place.load().extensions
    home = place.extensions / "alpha"
    assert f"It needs libfoo>=1. Run: easel extension install {home}" in extensions["alpha"].reason
    assert "It needs the Python module libfoo, which is not installed" in extensions["beta"].reason
    write_wheel(place.links, "libfoo", "1.0")
    assert place.run("install", str(home), "--enable").exit_code == 0  # where it lies
    assert place.load().extensions["alpha"].module is not None


def test_the_web_process_has_an_extensions_packages_too(place):
    write_wheel(place.links, "libfoo", "1.0")
    code = "import libfoo\nfrom webui.api import hookimpl\n\n@hookimpl\ndef on_shutdown(): ...\n"
    assert place.run("install", str(place.source("alpha", "libfoo", code=code, side="web")), "--enable").exit_code == 0
    plugins = Plugins(web_hookspecs, "web")
    plugins.load(place.data / "none", [place.extensions], Approvals(place.data / "extensions.json"), place.data / ".i")
    loaded = plugins.extensions["alpha"]
    assert (loaded.status, loaded.hooks, loaded.module.libfoo.version) == ("on", ("on_shutdown",), "1.0"), loaded.reason
    assert place.load().extensions["alpha"].module is None  # it has nothing for the engine


def test_only_what_was_installed_is_removed(place, tmp_path):
    assert "ships with Easel" in place.run("remove", "guidance").stderr
    assert "Did you mean" in place.run("remove", "guidence").stderr
    place.extensions.mkdir(parents=True, exist_ok=True)
    (place.extensions / "photos").mkdir()
    assert "is there already and is no extension" in place.install("photos").stderr
    (place.extensions / "alpha").symlink_to(place.source("alpha"))
    assert "where Easel has not put it" in place.run("remove", "alpha").stderr
    assert "where Easel has not put it" in place.run("install", str(place.work / "alpha")).stderr
    assert (place.work / "alpha" / "hooks.py").is_file()


@pytest.mark.parametrize("packed", [False, True])
def test_an_extension_whose_manifest_is_a_table_of_its_pyproject_is_installed_as_it_is(place, packed):
    home = place.source("grain")
    (home / "extension.toml").unlink()
    (home / "pyproject.toml").write_text(
        '[project]\nname = "grain"\nversion = "3"\n[tool.easel.extension]\napi = ">=1,<2"\nengine = "hooks"\n'
    )
    source = home
    if packed:
        source = place.work / "download.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for file in home.iterdir():
                archive.write(file, file.name)
    done = place.run("install", str(source))
    assert done.exit_code == 0, done.output
    assert "grain 3 lies in" in done.output
    assert place.status("grain")[0] == "new"
