"""Pickled checkpoints become safetensors without anything of them being run; what is hostile ends with a sentence."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from backend.checkpoints import unpickle
from backend.checkpoints.unpickle import convert
from backend.errors import BadRequest, ModelCorrupt, ModelUnsafe, ModelUnsupported, UserError
from backend.formats.reader import read_header
from webui.cli_convert import report_lines, run_converter

ROOT = Path(__file__).resolve().parent.parent.parent


class Runs:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def saved(path, value, **options):
    torch.save(value, path, **options)
    return path


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"a.weight": torch.randn(4, 3, generator=generator), "a.bias": torch.randn(4, generator=generator).half()}


def same_as(path, expected):
    found = safetensors.torch.load_file(path)
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "older stream"])
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda w: w,
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"net": w, "step": 1},
        lambda w: {"params_ema": w},
    ],
    ids=["bare", "state_dict", "one nested dict", "params_ema"],
)
def test_weights_come_out_bit_for_bit(tmp_path, is_zip, wrapped):
    source = saved(tmp_path / "m.ckpt", wrapped(weights()), _use_new_zipfile_serialization=is_zip)
    report = convert(source, tmp_path / "m.safetensors")
    same_as(tmp_path / "m.safetensors", weights())
    assert (report.tensors, report.bytes) == (2, 4 * 3 * 4 + 4 * 2)
    assert read_header(tmp_path / "m.safetensors").metadata["easel.converted_from"] == "m.ckpt"


def test_what_is_left_out_is_said_with_its_reason(tmp_path):
    state = {
        **weights(),
        "model_ema.aweight": torch.zeros(4, 3),
        "empty": torch.zeros(0),
        "v_pred": torch.zeros(0),
        "sparse": torch.eye(3).to_sparse(),
        "complex": torch.zeros(2, dtype=torch.complex64),
        "count": 7,
        5: torch.zeros(1),
    }
    report = convert(
        saved(tmp_path / "m.pt", {"state_dict": state, "optimizer_states": [1], "lr": 0.1}), tmp_path / "m.safetensors"
    )
    same_as(tmp_path / "m.safetensors", weights() | {"v_pred": torch.zeros(0)})
    assert set(report.dropped) == {
        "model_ema.aweight", "empty", "sparse", "complex", "count", "5", "optimizer_states", "lr",
    }  # fmt: skip
    assert "EMA" in report.dropped["model_ema.aweight"]
    assert report.dropped["lr"] == "not part of state_dict"


def test_tied_and_transposed_tensors_are_written_whole(tmp_path):
    one = torch.randn(5, 3)
    state = {"a": one, "b": one, "c": one.T, "d": one[:, 1]}
    convert(saved(tmp_path / "m.pt", state), tmp_path / "m.safetensors")
    same_as(tmp_path / "m.safetensors", state)


@pytest.mark.parametrize(
    "held", [lambda t: {"*": t}, lambda t: torch.nn.ParameterDict({"*": torch.nn.Parameter(t)})], ids=["dict", "module"]
)
def test_textual_inversions_of_a1111_become_emb_params(tmp_path, held):
    vectors = torch.randn(3, 768)
    source = saved(
        tmp_path / "cat.pt",
        {"string_to_token": {"*": 265}, "string_to_param": held(vectors), "name": "cat", "step": 900},
    )
    report = convert(source, tmp_path / "cat.safetensors")
    same_as(tmp_path / "cat.safetensors", {"emb_params": vectors})
    assert report.kind == "textual inversion"
    assert read_header(tmp_path / "cat.safetensors").metadata["name"] == "cat"


def test_objects_that_trainers_leave_do_not_stop_the_weights(tmp_path, monkeypatch):
    module = type(sys)("pytorch_lightning.callbacks.model_checkpoint")
    kind = type("ModelCheckpoint", (), {"__module__": module.__name__, "__qualname__": "ModelCheckpoint"})
    module.ModelCheckpoint = kind
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kept = kind()
    kept.best_model_path = "x"
    source = saved(tmp_path / "m.ckpt", {"callbacks": {"one": kept}, "state_dict": weights()})
    report = convert(source, tmp_path / "m.safetensors")
    same_as(tmp_path / "m.safetensors", weights())
    assert report.dropped == {"callbacks": "not part of state_dict"}


ATTACKS = {
    "os.system": lambda mark: Runs(os.system, f"touch {mark}"),
    "eval": lambda mark: Runs(builtins.eval, f"open({str(mark)!r}, 'w')"),
    "exec": lambda mark: Runs(builtins.exec, f"open({str(mark)!r}, 'w')"),
    "subprocess": lambda mark: Runs(subprocess.check_call, ["touch", str(mark)]),
    "getattr": lambda mark: Runs(getattr, "", "format"),
    "write_text": lambda mark: Runs(Path.write_text, mark, "x"),
    "torch.load": lambda mark: Runs(torch.load, str(mark)),
}


@pytest.mark.parametrize("place", ["whole", "beside the weights", "inside the weights"])
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "older stream"])
def test_a_pickle_that_would_run_code_runs_nothing_and_is_refused_by_name(tmp_path, attack, place, is_zip):
    mark = tmp_path / "mark"
    bad = ATTACKS[attack](mark)
    value = {
        "whole": bad, "beside the weights": {"state_dict": weights(), "callbacks": bad},
        "inside the weights": {**weights(), "b": bad},
    }[place]  # fmt: skip
    source = saved(tmp_path / "m.ckpt", value, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ModelUnsafe, match="Nothing of it was run") as caught:
        convert(source, tmp_path / "m.safetensors")
    assert not mark.exists()
    assert not (tmp_path / "m.safetensors").exists()
    words = {"subprocess": "check_call", "torch.load": "load", "os.system": "system", "write_text": "getattr"}
    word = words.get(attack, attack)
    assert word in caught.value.what or "no checkpoint needs" in caught.value.what


def test_a_bare_pickle_of_another_program_is_refused(tmp_path):
    source = tmp_path / "m.pt"
    for value in ([1, 2], {"a": 1}, Runs(os.system, "true")):
        for protocol in (2, 4):
            source.write_bytes(pickle.dumps(value, protocol))
            with pytest.raises((ModelUnsafe, ModelUnsupported, ModelCorrupt)):
                convert(source, tmp_path / "m.safetensors")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x03\x04" + b"\0" * 100, b"\x80\x02.", b"\x80\x02}q\0"])
def test_a_cut_file_is_a_sentence(tmp_path, content):
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(UserError) as caught:
        convert(tmp_path / "m.pt", tmp_path / "m.safetensors")
    assert len(caught.value.what) > 15


def test_every_truncation_of_a_checkpoint_is_a_sentence(tmp_path):
    whole = saved(tmp_path / "whole.pt", weights()).read_bytes()
    for end in range(0, len(whole), max(1, len(whole) // 40)):
        (tmp_path / "m.pt").write_bytes(whole[:end])
        with pytest.raises(UserError):
            convert(tmp_path / "m.pt", tmp_path / "m.safetensors")


# Bombs.


def archive(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in entries.items():
            file.writestr(f"archive/{name}", data)
    return path


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    source = archive(tmp_path / "m.pt", {"data.pkl": b"\0" * 10**7}, zipfile.ZIP_DEFLATED)
    assert source.stat().st_size < 20_000
    with pytest.raises(ModelUnsafe, match="compressed"):
        convert(source, tmp_path / "m.safetensors")


def test_an_oversized_pickle_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "MAX_PICKLE", 1000)
    with pytest.raises(ModelUnsafe, match="more than 1,000 bytes"):
        convert(archive(tmp_path / "m.pt", {"data.pkl": b"\0" * 1001}), tmp_path / "m.safetensors")


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    source = saved(tmp_path / "m.pt", {"a": torch.zeros(1).expand(2**20, 2**20)})
    assert source.stat().st_size < 10_000
    with pytest.raises(ModelUnsafe, match="claim more than the file holds"):
        convert(source, tmp_path / "m.safetensors")


def test_nested_lists_that_double_are_not_walked(tmp_path):
    bomb = ["x"]
    for _ in range(60):
        bomb = [bomb, bomb]
    report = convert(saved(tmp_path / "m.pt", {"state_dict": weights(), "x": bomb}), tmp_path / "m.safetensors")
    assert report.tensors == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory")
def test_the_process_ends_with_a_sentence_where_memory_is_asked_for_without_end(tmp_path):
    source = saved(tmp_path / "m.pt", {"state_dict": weights(), "x": Runs(bytearray, 2**40)})
    with pytest.raises(ModelUnsafe, match="more memory"):
        run_converter(source, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_the_command_converts_in_another_process_and_says_what_it_made(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise SystemExit('taken from the folder')")
    monkeypatch.chdir(tmp_path)  # a module beside the file is not ours
    source = saved(tmp_path / "m.ckpt", {"state_dict": weights(), "epoch": 1})
    report = run_converter(source, tmp_path / "m.safetensors")
    same_as(tmp_path / "m.safetensors", weights())
    lines = "\n".join(report_lines(report, tmp_path / "m.safetensors"))
    assert "2 tensors" in lines
    assert "epoch: not part of state_dict" in lines
    bad = saved(tmp_path / "bad.ckpt", Runs(os.system, f"touch {tmp_path / 'mark'}"))
    with pytest.raises(ModelUnsafe, match=r"names \w+\.system"):
        run_converter(bad, tmp_path / "bad.safetensors")
    assert not (tmp_path / "mark").exists()


def test_the_command_takes_no_place_that_is_taken(tmp_path):
    from webui.cli_convert import _check_target

    source = saved(tmp_path / "m.ckpt", weights())
    (tmp_path / "there.safetensors").touch()
    for target in ("there.safetensors", "m.ckpt", "gone/m.safetensors"):
        with pytest.raises(BadRequest):
            _check_target(source, tmp_path / target)


def test_only_one_module_unpickles():
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("backend", "webui")
        for path in (ROOT / folder).rglob("*.py")
        if any(word in path.read_text() for word in ("torch.load(", "pickle.load", "import pickle", "from pickle"))
    }
    assert found == {"backend/checkpoints/unpickle.py"}
