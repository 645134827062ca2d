"""The catalog: what each file is, whether it can be used where it lies, and a sentence for each that cannot."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading

import pytest

from backend.errors import ModelCorrupt, ModelUnsafe, ModelUnsupported, NotFound
from backend.formats.configs import CheckpointInfo, OtherFile, VaeInfo
from backend.records import catalog as catalog_module
from backend.records.catalog import Catalog
from backend.records.hashes import ModelHashes
from tests.formats.files import keys, published, write_sparse

SDXL, SD3 = "sdxl_base", "sd3_medium_incl_clips_t5xxl"


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    for name in ("checkpoints", "vae", "loras"):
        (folder / name).mkdir(parents=True)
    return folder


def put(models, name, content=SDXL):
    path = models / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_sparse(path, published(content))


def by_name(catalog):
    return {entry.name: entry for entry in catalog.models()}


def test_each_file_is_listed_as_what_it_is(models):
    put(models, "checkpoints/xl.safetensors")
    put(models, "checkpoints/deep/er/sd3.safetensors", SD3)
    put(models, "vae/v.safetensors", "sdxl_vae")
    found = by_name(Catalog(models))
    assert list(found) == ["deep/er/sd3", "xl", "v"]
    assert isinstance(found["xl"].info, CheckpointInfo)
    assert found["deep/er/sd3"].info.family == "sd3"
    assert isinstance(found["v"].info, VaeInfo)
    assert all(entry.usable and not entry.sentence and entry.error is None for entry in found.values())


def test_what_cannot_be_used_is_listed_with_its_sentence(models):
    (models / "checkpoints" / "page.safetensors").write_bytes(b"<!doctype html><html></html>")
    (models / "checkpoints" / "old.ckpt").write_bytes(b"PK\x03\x04" + b"\0" * 60)
    (models / "checkpoints" / "empty.safetensors").write_bytes(b"")
    write_sparse(models / "checkpoints" / "odd.safetensors", keys("a.b", "c.d"))
    put(models, "checkpoints/vae-here.safetensors", "sdxl_vae")
    put(models, "vae/checkpoint-here.safetensors")
    put(models, "checkpoints/no-text.safetensors", "sd35_medium")
    (models / "checkpoints" / "note.txt").write_text("not a model")
    catalog = Catalog(models)
    found = by_name(catalog)
    assert len(found) == 7
    for entry in found.values():
        assert not entry.usable
        assert len(entry.sentence) > 10
        assert str(models) not in entry.sentence
    assert "web page" in found["page"].sentence
    assert found["vae-here"].sentence == "This is a VAE; it belongs in models/vae."
    assert "belongs in models/checkpoints" in found["checkpoint-here"].sentence
    assert isinstance(found["odd"].info, OtherFile)
    for name, error in [("page", ModelCorrupt), ("old", ModelUnsafe), ("odd", ModelUnsupported),
                        ("no-text", ModelUnsupported), ("vae-here", ModelUnsupported)]:  # fmt: skip
        with pytest.raises(error) as caught:
            catalog.checkpoint(name)
        assert caught.value.field == "checkpoint"
    with pytest.raises(ModelUnsupported) as caught:
        catalog.vae("checkpoint-here")
    assert caught.value.field == "vae"


@pytest.mark.parametrize(
    "name",
    ["Big-Model", "big-model.safetensors", "sub/Big-Model", "sub\\Big-Model", "sub/big-model.safetensors"],
)
def test_a_model_is_found_by_name_file_name_or_stem(models, name):
    put(models, "checkpoints/sub/Big-Model.safetensors")
    assert Catalog(models).find(name).name == "sub/Big-Model"
    assert Catalog(models).checkpoint(name).family == "sdxl"


def test_a_usable_file_wins_over_a_broken_one_of_the_same_stem(models):
    (models / "checkpoints" / "m.ckpt").write_bytes(b"\x80\x04junk" * 9)
    put(models, "checkpoints/m.safetensors")
    assert Catalog(models).find("m").usable


@pytest.mark.parametrize(
    "name", ["demo-x", "../../etc/passwd", "\0", "a" * 5000, "/etc/passwd", "C:\\x", "..", "\u202e"]
)
def test_an_unknown_name_is_told_with_the_nearest(models, name):
    put(models, "checkpoints/demo-xl.safetensors")
    with pytest.raises(NotFound, match="demo-xl") as caught:
        Catalog(models).checkpoint(name)
    assert len(str(caught.value)) <= 300
    assert caught.value.field == "checkpoint"


def test_the_default_is_the_users_first_then_the_shipped_ones(models):
    catalog = Catalog(models)
    with pytest.raises(NotFound, match="no checkpoint"):
        catalog.checkpoint()
    put(models, "checkpoints/demo-sd3.safetensors", SD3)
    assert catalog.checkpoint().name == "demo-sd3"
    put(models, "checkpoints/demo-xl.safetensors")
    assert catalog.checkpoint().name == "demo-xl"
    (models / "checkpoints" / "a-broken.safetensors").write_bytes(b"")
    put(models, "checkpoints/zebra.safetensors")
    assert catalog.default_checkpoint().name == "zebra"


def test_headers_are_read_once_until_the_file_changes(models, monkeypatch):
    reads = []
    real = catalog_module.read_header
    monkeypatch.setattr(catalog_module, "read_header", lambda path: reads.append(path.name) or real(path))
    path = put(models, "checkpoints/a.safetensors")
    catalog = Catalog(models)
    catalog.models(), catalog.models(), catalog.checkpoint("a")
    assert reads == ["a.safetensors"]
    path.write_bytes(b"cut")
    assert not catalog.find("a").usable
    path.unlink()
    assert catalog.models() == []
    assert reads == ["a.safetensors"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs and symbolic links")
def test_links_are_followed_and_fifos_circles_and_dead_links_are_not(models, tmp_path):
    real = put(tmp_path, "elsewhere/linked.safetensors")
    (models / "checkpoints" / "link.safetensors").symlink_to(real)
    (models / "checkpoints" / "shared").symlink_to(tmp_path / "elsewhere")
    (models / "checkpoints" / "circle").symlink_to(models / "checkpoints")
    (models / "checkpoints" / "dead.safetensors").symlink_to(tmp_path / "gone")
    os.mkfifo(models / "checkpoints" / "pipe.safetensors")
    done = []
    thread = threading.Thread(target=lambda: done.append(by_name(Catalog(models))), daemon=True)
    thread.start()
    thread.join(20)
    assert sorted(done[0]) == ["link", "shared/linked"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_name_that_cannot_be_written_is_listed_as_unusable(models):
    put(models, "checkpoints/a.safetensors").rename(
        os.fsdecode(os.fsencode(models / "checkpoints") + b"/bad\xff.safetensors")
    )
    (entry,) = Catalog(models).models()
    assert (entry.name, entry.usable) == ("bad?", False)
    json.dumps([entry.name, entry.sentence], ensure_ascii=False).encode()


def test_a_missing_models_folder_is_an_empty_catalog(tmp_path):
    assert Catalog(tmp_path / "none").models() == []


def test_several_threads_may_look_at_once(models):
    put(models, "checkpoints/a.safetensors")
    catalog, seen = Catalog(models), []
    threads = [threading.Thread(target=lambda: seen.append(len(catalog.models()))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 6


def test_the_model_hash_is_ten_digits_of_sha256_and_remembered(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"weights")
    cache = tmp_path / "data" / "hashes.json"
    catalog = Catalog(tmp_path, hashes=cache)
    expected = hashlib.sha256(b"weights").hexdigest()[:10]
    assert ModelHashes(cache).known(path) is None
    assert catalog.model_hash(path) == expected
    assert ModelHashes(cache).known(path) == expected
    path.write_bytes(b"other weights")
    assert ModelHashes(cache).known(path) is None
    assert catalog.model_hash(path) == hashlib.sha256(b"other weights").hexdigest()[:10]
    with pytest.raises(NotFound):
        catalog.model_hash(tmp_path / "gone")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"x": 1}'])
def test_a_broken_hash_cache_is_only_slower(tmp_path, content):
    path, cache = tmp_path / "m", tmp_path / "hashes.json"
    path.write_bytes(b"weights")
    cache.write_bytes(content)
    assert ModelHashes(cache).get(path) == hashlib.sha256(b"weights").hexdigest()[:10]


def test_hashes_work_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"weights")
    hashes = ModelHashes(tmp_path / "file" / "hashes.json")
    assert hashes.get(tmp_path / "file") == hashlib.sha256(b"weights").hexdigest()[:10]


def test_a_warm_scan_opens_no_file(models, tmp_path, monkeypatch):
    put(models, "checkpoints/a.safetensors")
    put(models, "vae/v.safetensors", "sdxl_vae")
    write_sparse(models / "loras" / "l.safetensors", keys("lora_unet_x.lora_down.weight"))
    old = models / "checkpoints" / "cut.safetensors"
    old.write_bytes(b"cut")
    os.utime(old, (1e9, 1e9))
    cache = tmp_path / "models.sqlite"
    first = Catalog(models, readings=cache).models()
    monkeypatch.setattr(catalog_module, "read_header", lambda path: pytest.fail(f"{path.name} was opened"))
    catalog = Catalog(models, readings=cache)
    catalog.look()
    assert [(e.name, e.info, e.sentence) for e in catalog.listing()] == [(e.name, e.info, e.sentence) for e in first]
    assert catalog.checkpoint("a").family == "sdxl"


def test_looking_opens_nothing_and_entries_appear_as_they_are_read(models):
    for name in "abc":
        put(models, f"checkpoints/{name}.safetensors")
    catalog = Catalog(models)
    assert catalog.look()
    assert [(e.name, e.is_read, e.usable, e.sentence) for e in catalog.listing()] == [
        (name, False, False, "") for name in "abc"
    ]
    version = catalog.version
    assert catalog.read_on(0.0)  # one at least
    assert [e.is_read for e in catalog.listing()] == [True, False, False]
    assert catalog.version > version
    assert catalog.find("c").usable  # asked for: read at once
    assert [e.is_read for e in catalog.listing()] == [True, False, True]
    assert not catalog.read_on(60)
    assert all(e.usable for e in catalog.listing())
    version = catalog.version
    assert not catalog.look()
    assert catalog.version == version


def test_a_file_that_is_still_copied_is_read_again_when_it_settles(models, tmp_path):
    now = [1e9]
    with put(tmp_path, "whole.safetensors").open("rb") as file:
        whole = file.read(400_000)  # the header and some of the hole
    path, cache = models / "checkpoints" / "m.safetensors", tmp_path / "models.sqlite"

    def write(data: bytes, size: int) -> None:
        with path.open("wb") as file:
            file.write(data)
            file.truncate(size)
        os.utime(path, (now[0], now[0]))

    catalog = Catalog(models, readings=cache, clock=lambda: now[0])
    write(whole[:1000], 1000)
    (entry,) = catalog.models()
    assert (entry.usable, entry.settling) == (False, True)
    now[0] += 3
    full = (tmp_path / "whole.safetensors").stat().st_size
    write(whole, full)
    (entry,) = catalog.models()
    assert (entry.usable, entry.settling) == (True, False)

    write(whole[:1000], 1000)  # damaged for good
    assert catalog.models()[0].settling
    now[0] += 11
    assert not catalog.look()
    catalog.read_on(60)
    assert (catalog.listing()[0].usable, catalog.listing()[0].settling) == (False, False)
    assert Catalog(models, readings=cache).find("m").error is not None


def test_sidecars_are_found_by_their_names(models):
    path = put(models, "checkpoints/m.safetensors")
    for name in ("m.png", "m.preview.PNG", "m.json", "m.civitai.info", "other.png"):
        (path.parent / name).write_bytes(b"x")
    (entry,) = Catalog(models).models()
    assert entry.preview is not None
    assert entry.preview[0] == str(path.parent / "m.preview.PNG")
    assert [name.rpartition("/")[2] for name in entry.note_files] == ["m.json", "m.civitai.info"]


def test_a_yaml_beside_a_file_that_comes_or_changes_makes_it_read_anew(models):
    path = put(models, "checkpoints/m.safetensors")
    catalog = Catalog(models)
    catalog.models()
    assert not catalog.look()
    path.with_suffix(".yaml").write_text("model: {}")
    assert catalog.look()
    assert not catalog.listing()[0].is_read


def test_a_file_is_found_by_its_hash_once_that_is_known(models, tmp_path):
    write_sparse(models / "checkpoints" / "odd.safetensors", keys("a.b"))
    path = put(models, "checkpoints/renamed.safetensors")
    catalog = Catalog(models, hashes=tmp_path / "hashes.json")
    (tmp_path / "hashes.json").write_text(
        json.dumps({str(path): {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "sha256": "ab" * 32}})
    )
    catalog.look()
    assert catalog.by_hash("ABABABABAB").name == "renamed"
    assert catalog.by_hash("abab") is None
    assert catalog.by_hash("0123456789") is None


def test_the_default_makes_pictures_from_words(models):
    put(models, "checkpoints/a-refiner.safetensors", "sdxl_refiner")
    put(models, "checkpoints/b-inpaint.safetensors", "sdxl_inpaint")
    assert Catalog(models).default_checkpoint().name == "a-refiner"
    put(models, "checkpoints/z-base.safetensors", "sdxl_base")
    assert Catalog(models).default_checkpoint().name == "z-base"
