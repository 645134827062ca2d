"""The names in a request: which file each stands for, and a sentence with the nearest where there is none."""

from __future__ import annotations

import pytest

from backend.errors import ModelCorrupt, ModelUnsafe, ModelUnsupported, NotFound
from backend.records.catalog import Catalog
from backend.records.model_files import ModelFiles
from tests.formats.files import keys, put_published, write_sparse

SD3 = "sd3_medium_incl_clips_t5xxl"


def test_what_cannot_be_used_is_refused_with_the_field_that_names_it(models):
    (models / "checkpoints" / "page.safetensors").write_bytes(b"<!doctype html><html></html>")
    (models / "checkpoints" / "old.ckpt").write_bytes(b"PK\x03\x04" + b"\0" * 60)
    write_sparse(models / "checkpoints" / "odd.safetensors", keys("a.b", "c.d"))
    put_published(models, "checkpoints/vae-here.safetensors", "sdxl_vae")
    put_published(models, "vae/checkpoint-here.safetensors")
    put_published(models, "checkpoints/no-text.safetensors", "sd35_medium")
    catalog = Catalog(ModelFiles(models))
    for name, error in [("page", ModelCorrupt), ("old", ModelUnsafe), ("odd", ModelUnsupported),
                        ("no-text", ModelUnsupported), ("vae-here", ModelUnsupported)]:  # fmt: skip
        with pytest.raises(error) as caught:
            catalog.checkpoint(name)
        assert caught.value.field == "checkpoint"
    with pytest.raises(ModelUnsupported) as caught:
        catalog.vae("checkpoint-here")
    assert caught.value.field == "vae"


@pytest.mark.parametrize("name", ["Big-Model", "big-model.safetensors", "sub\\Big-Model"])
def test_a_checkpoint_is_named_as_it_is_listed_or_as_its_file(models, name):
    put_published(models, "checkpoints/sub/Big-Model.safetensors")
    assert Catalog(ModelFiles(models)).checkpoint(name).family == "sdxl"


@pytest.mark.parametrize(
    "name", ["demo-x", "../../etc/passwd", "\0", "a" * 5000, "/etc/passwd", "C:\\x", "..", "\u202e"]
)
def test_an_unknown_name_is_told_with_the_nearest(models, name):
    put_published(models, "checkpoints/demo-xl.safetensors")
    with pytest.raises(NotFound, match="demo-xl") as caught:
        Catalog(ModelFiles(models)).checkpoint(name)
    assert len(str(caught.value)) <= 300
    assert caught.value.field == "checkpoint"


def test_the_default_is_the_users_first_then_the_shipped_ones(models):
    catalog = Catalog(ModelFiles(models))
    with pytest.raises(NotFound, match="no checkpoint"):
        catalog.checkpoint()
    put_published(models, "checkpoints/demo-sd3.safetensors", SD3)
    assert catalog.checkpoint().name == "demo-sd3"
    put_published(models, "checkpoints/demo-xl.safetensors")
    assert catalog.checkpoint().name == "demo-xl"
    (models / "checkpoints" / "a-broken.safetensors").write_bytes(b"")
    put_published(models, "checkpoints/zebra.safetensors")
    assert catalog.default_checkpoint().name == "zebra"


def test_the_default_makes_pictures_from_words(models):
    put_published(models, "checkpoints/a-refiner.safetensors", "sdxl_refiner")
    put_published(models, "checkpoints/b-inpaint.safetensors", "sdxl_inpaint")
    assert Catalog(ModelFiles(models)).default_checkpoint().name == "a-refiner"
    put_published(models, "checkpoints/z-base.safetensors", "sdxl_base")
    assert Catalog(ModelFiles(models)).default_checkpoint().name == "z-base"
