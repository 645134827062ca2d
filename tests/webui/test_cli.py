"""The command line without a server: help, models, and what generate makes of its options."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from backend.records.metadata import read_picture
from backend.request import GenerationRequest
from backend.settings import Settings, load_settings
from tests.formats.files import published, write_sparse
from tests.webui.running import ROOT, settings_for
from webui.cli import starts_page
from webui.commands import chosen_fields, easel
from webui.engine_start import engine_environment


def run(*arguments: str):
    return CliRunner().invoke(easel, arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], True),
        (["--port", "7000"], True),
        (["--models-dir", "models"], True),  # a folder that is called like a subcommand
        (["models"], False),
        (["generate", "a fox"], False),
        (["--help"], False),
        (["--version"], False),
    ],
)
def test_the_launcher_is_taken_unless_a_subcommand_or_an_answer_is_wanted(arguments, expected):
    assert starts_page(arguments) is expected


def test_an_option_before_its_command_is_told_where_it_belongs_and_starts_no_page(tmp_path):
    given = ["--data-dir", str(tmp_path), "models"]
    assert not starts_page(given)
    assert starts_page(["--data-dir", "models"])
    told = CliRunner().invoke(easel, given)
    assert told.exit_code == 2
    assert "Options stand behind their command: easel models ... --data-dir" in told.output


def test_every_setting_is_an_option_with_its_help():
    text = " ".join(run("--help").output.split())
    for name, info in Settings.model_fields.items():
        assert "--" + name.replace("_", "-") in text
        assert info.description.split(";")[0][:30] in text


def test_every_request_field_is_an_option_of_generate():
    text = run("generate", "--help").output
    for each in fields(GenerationRequest):
        if each.name != "prompt":
            assert "--" + each.name.replace("_", "-") in text


def test_help_is_quick_and_imports_neither_gradio_nor_torch():
    code = (
        "import sys; sys.argv = ['easel', {0}]\n"
        "from webui.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not [m for m in ('torch', 'gradio', 'fastapi', 'transformers', 'numpy') if m in sys.modules]\n"
    )
    for arguments in ("'--help'", "'generate', '--help'"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        assert done.returncode == 0, done.stderr
        assert "Usage: easel" in done.stdout
        assert seconds < 1.0  # 0.35 s of CPU on an idle machine


def test_models_lists_what_each_file_is_or_why_not(tmp_path):
    settings = settings_for(tmp_path)
    done = run("models", "--data-dir", str(tmp_path), "--models-dir", str(settings.models_dir))
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0].split() == ["NAME", "KIND", "MADE", "FOR", "PRECISION", "SIZE"]
    row = next(line for line in lines if line.startswith("  xl "))
    assert "SDXL base" in row
    assert "fp16" in row
    assert "6.5 GiB" in row
    assert lines[1] == "checkpoints/"
    assert "page.safetensors is a web page" in done.output
    told = json.loads(
        run("models", "--json", "--data-dir", str(tmp_path), "--models-dir", str(settings.models_dir)).output
    )["models"]
    assert {model["name"] for model in told} == {"xl", "page"}


def test_models_of_other_programs_are_listed_with_what_cannot_be_read(tmp_path):
    settings = settings_for(tmp_path)
    theirs = tmp_path / "forge" / "models" / "Stable-diffusion"
    theirs.mkdir(parents=True)
    write_sparse(theirs / "xl.safetensors", published("sdxl_base"))
    trees = ["--models-from", str(tmp_path / "forge"), "--models-from", str(tmp_path / "gone")]
    done = run("models", "--data-dir", str(tmp_path), "--models-dir", str(settings.models_dir), *trees)
    assert {"xl ", "xl (forge) "} <= {line.split("SDXL base")[0].strip() + " " for line in done.output.splitlines()}
    assert "easel: gone: there is no such folder (models_from).\n" in done.stderr


def test_the_engine_is_told_every_setting(tmp_path, monkeypatch):
    settings = settings_for(tmp_path, models_from=(tmp_path / "a b", tmp_path / "c,d"))
    told = {name: value for name, value in engine_environment(settings).items() if name.startswith("EASEL_")}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert load_settings().models_from == settings.models_from
    assert load_settings().hash_models == settings.hash_models


def test_models_says_so_when_there_is_none(tmp_path):
    assert (
        run("models", "--data-dir", str(tmp_path), "--models-dir", str(tmp_path)).output
        == f"No model files in {tmp_path}.\n"
    )


def test_models_imports_neither_gradio_nor_torch(tmp_path):
    code = (
        f"import sys; sys.argv = ['easel', 'models', '--models-dir', {str(tmp_path)!r}]\n"
        "from webui.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not [m for m in ('torch', 'gradio', 'fastapi', 'transformers') if m in sys.modules]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["a fox", "--steps", "1000"],
            "easel: Sampling steps (steps) is 1000, which cannot be used.",
        ),
        (["a fox", "--steps", "many"], "'many' is not a valid integer"),
        (["a fox", "--stepps", "4"], "No such option"),
        (["a fox", "-o", "fox.gif"], "easel: The file fox.gif does not end as a picture does."),
        (["a fox", "-o", "fox.png", "--image-format", "webp"], "easel: The file fox.png does not end as a webp does."),
        (["a fox", "--init-image", "/does/not/exist.png"], "does not exist"),
        (["a fox", "--jpeg-quality", "0"], "easel: Setting jpeg_quality is 0"),
        (
            ["a fox", "--preset", "lightening-4"],
            "easel: Preset 'lightening-4' is not known. Did you mean 'lightning-4'",
        ),
        (["a fox", "--image-format", "gif"], "is not one of 'png', 'jpeg', 'webp'"),
    ],
)
def test_wrong_options_are_a_sentence_and_exit_code_2(arguments, sentence):
    done = CliRunner().invoke(easel, ["generate", *arguments])
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.output


def test_an_init_image_that_is_none_is_refused_before_the_engine_loads(tmp_path):
    file = tmp_path / "x.png"
    file.write_bytes(b"GIF89a")
    done = run("generate", "a fox", "--data-dir", str(tmp_path), "--init-image", str(file))
    assert done.exit_code == 2
    assert "easel: The picture cannot be read" in done.stderr


def test_python_m_webui_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "webui", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("easel, version ")
    assert Path(ROOT / "webui" / "__main__.py").is_file()


def test_a_preset_fills_what_is_not_given():
    fields = chosen_fields("lcm-8", {"steps": 6, "sampler": None, "seed": 3})
    assert fields == {"steps": 6, "cfg_scale": 1.5, "sampler": "lcm", "schedule": "sgm_uniform", "seed": 3}
    assert chosen_fields(None, {"steps": None}) == {}


@pytest.mark.server
def test_generate_makes_the_picture_of_the_seed_and_another_of_the_next(tmp_path):
    command = [sys.executable, "-m", "webui", "generate", "a fox", "--checkpoint", "demo-xl", "--seed", "7", "--steps",
               "2", "--width", "64", "--height", "64", "--batch-count", "2", "-o", str(tmp_path / "fox.webp"),
               "--data-dir", str(tmp_path / "data"), "--threads", "1"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    paths = [tmp_path / "fox-1.webp", tmp_path / "fox-2.webp"]
    assert done.stdout.split() == [str(path) for path in paths]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "fox-1.webp", "fox-2.webp"]
    assert "model calls" in done.stderr
    infos = [read_picture(path) for path in paths]
    assert [info.index for info in infos] == [0, 1]
    assert infos[0].request["seed"] == 7
    assert infos[0].request["prompt"] == "a fox"


@pytest.mark.server
def test_generate_fills_words_in_without_a_switch_and_sweeps_by_name(tmp_path):
    command = [sys.executable, "-m", "webui", "generate", "a {fox|fox}", "--checkpoint", "demo-sd3", "--seed", "7",
               "--width", "64", "--height", "64", "--set", "sweep.x=steps: 1, 2", "-o", str(tmp_path / "out.png"),
               "--data-dir", str(tmp_path / "data"), "--threads", "1"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *singles, grid = [read_picture(Path(line)).request for line in done.stdout.split()]
    assert [(each["prompt"], each["steps"]) for each in singles] == [("a fox", 1), ("a fox", 2)]
    assert grid["prompt"] == "a {fox|fox}" and grid["extensions"]["sweep"]["values"]["x"] == "steps: 1, 2"
