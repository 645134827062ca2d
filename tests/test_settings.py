"""Settings: defaults < settings.toml < environment < command line; a wrong one is told by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.errors import BadRequest
from backend.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("EASEL_")]:
        monkeypatch.delenv(name)


def test_each_source_outranks_the_one_before(tmp_path, monkeypatch):
    assert load_settings(data_dir=tmp_path).port == 7860
    (tmp_path / "settings.toml").write_text("port = 7001\njpeg_quality = 50\npreview_every = 5\n")
    assert load_settings(data_dir=tmp_path).port == 7001
    monkeypatch.setenv("EASEL_PORT", "7002")
    monkeypatch.setenv("EASEL_JPEG_QUALITY", "60")
    assert load_settings(data_dir=tmp_path).port == 7002
    settings = load_settings(data_dir=tmp_path, port=7003)
    assert (settings.port, settings.jpeg_quality, settings.preview_every) == (7003, 60, 5)


def test_an_option_that_is_none_counts_as_not_given(tmp_path, monkeypatch):
    monkeypatch.setenv("EASEL_PORT", "7002")
    assert load_settings(data_dir=tmp_path, port=None).port == 7002


def test_the_data_folder_may_come_from_the_environment(tmp_path, monkeypatch):
    (tmp_path / "settings.toml").write_text("port = 7001\n")
    monkeypatch.setenv("EASEL_DATA_DIR", str(tmp_path))
    settings = load_settings()
    assert settings.port == 7001
    assert settings.outputs_dir == tmp_path / "outputs"
    assert settings.inputs_dir == tmp_path / "inputs"
    assert settings.database == tmp_path / "easel.sqlite"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"port": 0}, "port"),
        ({"port": 70_000}, "port"),
        ({"dtype": "int8"}, "dtype"),
        ({"memory_gb": -1}, "memory_gb"),
        ({"jpeg_quality": 101}, "jpeg_quality"),
        ({"token": "x" * 201}, "token"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_wrong_setting_is_told_by_name(tmp_path, options, name):
    with pytest.raises(BadRequest) as caught:
        load_settings(data_dir=tmp_path, **options)
    assert caught.value.field == name
    assert name in str(caught.value)


@pytest.mark.parametrize("text", ["port = 0", "strange = 1", "port = 'x'"])
def test_a_wrong_line_in_the_file_is_told_by_name(tmp_path, text):
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(BadRequest, match=text.split(maxsplit=1)[0]):
        load_settings(data_dir=tmp_path)


def test_a_file_that_is_no_toml_is_told(tmp_path):
    (tmp_path / "settings.toml").write_text("port 7001 ][")
    with pytest.raises(BadRequest, match=r"settings\.toml"):
        load_settings(data_dir=tmp_path)


def test_a_list_in_the_environment_that_is_no_json_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("EASEL_ALLOW_HOST", "my.host")
    with pytest.raises(BadRequest, match="allow_host"):
        load_settings(data_dir=tmp_path)
    monkeypatch.setenv("EASEL_ALLOW_HOST", '["my.host"]')
    assert load_settings(data_dir=tmp_path).allow_host == ("my.host",)


def test_folders_stay_the_same_ones_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "settings.toml").write_text('models_from = ["~/webui"]\nextensions_dir = ["mine"]\n')
    settings = load_settings(data_dir="data", models_dir="models")
    assert settings.data_dir == tmp_path / "data"
    assert settings.models_dir == tmp_path / "models"
    assert settings.models_from == (Path.home() / "webui",)
    assert settings.extension_folders == (tmp_path / "data" / "extensions", tmp_path / "mine")


def test_a_long_or_secret_value_is_not_repeated(tmp_path):
    with pytest.raises(BadRequest) as caught:
        load_settings(data_dir=tmp_path, token="s3cret" * 50)
    assert "s3cret" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_settings_cannot_be_changed(tmp_path):
    with pytest.raises(ValueError, match="frozen"):
        load_settings(data_dir=tmp_path).port = 1


def test_every_setting_has_help_for_the_command_line():
    assert all(field.description for field in Settings.model_fields.values())


def test_nothing_happens_on_disk(tmp_path):
    load_settings(data_dir=tmp_path / "new", models_dir=tmp_path / "models")
    assert list(tmp_path.iterdir()) == []
