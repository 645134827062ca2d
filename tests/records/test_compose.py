"""A checkpoint without encoders is completed by the files that fit, or by those that a request names."""

from __future__ import annotations

from random import Random

import pytest

from backend.errors import BadRequest, ModelUnsupported, NotFound
from backend.formats.configs import CheckpointInfo
from backend.records.catalog import Catalog
from backend.records.model_files import ModelFiles
from backend.records.parameters_text import parameters_text
from backend.records.read_parameters import read_parameters
from backend.records.registry import core_registry
from backend.records.resolve import resolve
from backend.request import GenerationRequest
from tests.formats.files import published, write_sparse

REGISTRY = core_registry()


def without(tensors, *prefixes):
    return {key: row for key, row in tensors.items() if not key.startswith(prefixes)}


def as_dtype(tensors, dtype):
    return {key: (dtype, shape) for key, (_, shape) in tensors.items()}


T5 = published("t5xxl")
MEDIUM = published("sd35_medium")  # denoiser and VAE
XL_ALONE = without(published("sdxl_base"), "conditioner.", "first_stage_model.")
FILES = {
    "checkpoints/medium": MEDIUM,
    "text_encoders/clip_l": published("clip_l"),
    "text_encoders/clip_g": published("clip_g"),
    "text_encoders/t5xxl_fp16": T5,
    "text_encoders/t5xxl_fp8_e4m3fn": as_dtype(T5, "F8_E4M3"),
}


@pytest.fixture
def put(tmp_path):
    def put(**files):
        for name, tensors in files.items():
            path = tmp_path / (name + ".safetensors")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sparse(path, tensors)
        return Catalog(ModelFiles(tmp_path, readings=tmp_path / "readings.sqlite"))

    return put


def entry(catalog, name):
    return next(each for each in catalog.files.models() if each.name == name)


def settled(catalog, **fields):
    request = GenerationRequest(**fields)
    info, vae = catalog.asked_by(request)
    return resolve(request, info, REGISTRY, vae=vae, rng=Random(1)).request


def test_what_is_missing_is_named_with_what_to_put_where(put):
    catalog = put(**{"checkpoints/medium": MEDIUM})
    found = entry(catalog, "medium")
    assert not found.usable
    for word in ("CLIP-L and CLIP-G", "clip_l.safetensors", "clip_g.safetensors", "models/text_encoders"):
        assert word in found.sentence
    with pytest.raises(ModelUnsupported, match=r"clip_g\.safetensors"):
        catalog.checkpoint("medium")
    found = entry(put(**{"text_encoders/clip_l": published("clip_l")}), "medium")
    assert "CLIP-G" in found.sentence
    assert "CLIP-L" not in found.sentence


def test_a_checkpoint_is_completed_by_the_files_that_fit_and_says_which(put, tmp_path):
    catalog = put(**FILES)
    info = catalog.checkpoint("medium")
    assert info.companions == {"clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5xxl_fp16"}
    assert [info.sources[part].paths[0].stem for part in ("denoiser", "vae", "clip_g", "t5")] == [
        "medium", "medium", "clip_g", "t5xxl_fp16",
    ]  # fmt: skip
    assert (info.clip_l.width, info.clip_g.width, info.t5.width) == (768, 1280, 4096)
    assert [note for note in info.notes if "fit" in note] == [
        "T5 is t5xxl_fp16, one of 2 that fit: t5xxl_fp16, t5xxl_fp8_e4m3fn."
    ]
    assert not any("text encoder" in note for note in info.notes)
    assert entry(catalog, "medium").usable
    again = Catalog(ModelFiles(tmp_path, readings=None))
    assert again.checkpoint("medium") == info


def test_of_several_the_published_name_is_first_then_precision_then_the_name(put):
    base = {"checkpoints/medium": MEDIUM, "text_encoders/clip_g": published("clip_g")}
    clip_l = published("clip_l")
    catalog = put(**base, **{"text_encoders/b": clip_l, "text_encoders/a": clip_l})
    assert catalog.checkpoint("medium").companions["clip_l"] == "a"
    catalog = put(**{"text_encoders/z32": as_dtype(clip_l, "F32")})
    assert catalog.checkpoint("medium").companions["clip_l"] == "z32"
    catalog = put(**{"text_encoders/sub/clip_l": as_dtype(clip_l, "F8_E5M2")})
    assert catalog.checkpoint("medium").companions["clip_l"] == "sub/clip_l"


@pytest.mark.parametrize("naming", ["Hugging Face", "open_clip"])
def test_an_sdxl_denoiser_alone_takes_encoders_in_either_naming(put, naming):
    prefix = "conditioner.embedders.1.model."
    open_clip = {key[len(prefix) :]: row for key, row in published("sdxl_base").items() if key.startswith(prefix)}
    catalog = put(
        **{
            "checkpoints/xl": XL_ALONE,
            "text_encoders/clip_l": published("clip_l"),
            "text_encoders/clip_g": published("clip_g") if naming == "Hugging Face" else open_clip,
            "text_encoders/t5": T5,
        }
    )
    info = catalog.checkpoint("xl")
    assert info.companions == {"clip_l": "clip_l", "clip_g": "clip_g"}  # it has no use for T5
    assert info.sources["clip_g"].layout == ("canonical" if naming == "Hugging Face" else "open_clip")


def test_a_clip_g_that_cannot_pool_does_not_complete_anything(put):
    bare = {key: row for key, row in published("clip_g").items() if "text_projection" not in key}
    catalog = put(
        **{"checkpoints/xl": XL_ALONE, "text_encoders/clip_l": published("clip_l"), "text_encoders/clip_g": bare}
    )
    assert "CLIP-G" in entry(catalog, "xl").sentence


def test_files_that_come_and_go_are_noticed(put, tmp_path):
    catalog = put(**{"checkpoints/medium": MEDIUM})
    catalog.files.models()
    assert not any(each.usable for each in catalog.files.listing())
    put(**{name: FILES[name] for name in ("text_encoders/clip_l", "text_encoders/clip_g")})
    before = catalog.files.version
    assert entry(catalog, "medium").usable
    assert catalog.files.version > before
    assert catalog.checkpoint("medium").t5 is None
    put(**{"text_encoders/t5xxl_fp16": T5})
    assert catalog.files.models()
    assert catalog.checkpoint("medium").companions["t5"] == "t5xxl_fp16"
    (tmp_path / "text_encoders" / "clip_g.safetensors").unlink()
    assert not entry(catalog, "medium").usable


def test_the_first_question_reads_the_encoders_by_itself(put):
    assert isinstance(put(**FILES).checkpoint("medium"), CheckpointInfo)
    assert put(**FILES).default_checkpoint().name == "medium"


# What a request names.


def test_what_was_chosen_stands_in_the_request_and_leads_back_to_the_same(put):
    catalog = put(**FILES)
    request = settled(catalog, checkpoint="medium")
    assert (request.clip_l_file, request.clip_g_file, request.t5_file) == ("clip_l", "clip_g", "t5xxl_fp16")
    assert settled(catalog, checkpoint="medium", use_t5=False).t5_file == ""
    put(**{"text_encoders/t5xxl": T5})  # one that would be preferred comes later
    assert settled(catalog, checkpoint="medium", t5_file=request.t5_file).t5_file == "t5xxl_fp16"
    read = read_parameters(parameters_text(request, {}, REGISTRY), REGISTRY).fields
    assert {name: read[name] for name in ("clip_l_file", "clip_g_file", "t5_file")} == {
        "clip_l_file": "clip_l", "clip_g_file": "clip_g", "t5_file": "t5xxl_fp16",
    }  # fmt: skip


def test_an_encoder_of_the_checkpoint_gives_way_to_the_file_that_is_named(put):
    whole = published("sd3_medium_incl_clips_t5xxl")
    catalog = put(**{"checkpoints/whole": whole, **{n: t for n, t in FILES.items() if "text_encoders" in n}})
    own, _ = catalog.asked_by(GenerationRequest(checkpoint="whole"))
    assert own.companions == {}
    asked, _ = catalog.asked_by(GenerationRequest(checkpoint="whole", t5_file="t5xxl_fp8_e4m3fn.safetensors"))
    assert asked.companions == {"t5": "t5xxl_fp8_e4m3fn"}
    assert asked.sources["t5"].paths[0].stem == "t5xxl_fp8_e4m3fn"
    assert asked.sources["clip_l"] == own.sources["clip_l"]


@pytest.mark.parametrize(
    ("fields", "error", "word"),
    [
        ({"t5_file": "clip_l"}, ModelUnsupported, "is a CLIP-L, not a T5"),
        ({"clip_l_file": "nothing"}, NotFound, "nothing"),
        ({"checkpoint": "xl", "t5_file": "t5xxl_fp16"}, ModelUnsupported, "uses no T5"),
        ({"clip_g_file": "narrow"}, ModelUnsupported, "cannot be used here"),
        ({"clip_l_file": "broken"}, ModelUnsupported, "belongs in models/checkpoints"),
        ({"vae": "VAE of nothing"}, NotFound, "nothing"),
        ({"vae": "VAE of xl"}, ModelUnsupported, "no VAE in it"),
        ({"vae": "xl"}, NotFound, "write 'VAE of xl'"),
    ],
)
def test_a_file_that_cannot_be_what_it_is_named_for_is_refused_with_its_field(put, fields, error, word):
    narrow = {key: (dtype, [640 if n == 1280 else n for n in shape]) for key, (dtype, shape) in
              published("clip_g").items()}  # fmt: skip
    catalog = put(
        **FILES, **{"checkpoints/xl": XL_ALONE, "text_encoders/narrow": narrow, "text_encoders/broken": MEDIUM}
    )
    with pytest.raises(error) as caught:
        catalog.asked_by(GenerationRequest(**({"checkpoint": "medium"} | fields)))
    assert caught.value.field == next(name for name in fields if name != "checkpoint")
    assert word in str(caught.value)


def test_a_checkpoint_without_a_vae_takes_the_one_that_fits(put):
    vae = published("sdxl_vae")
    base = {"checkpoints/xl": without(published("sdxl_base"), "first_stage_model.")}
    catalog = put(**base, **{"vae/sd3": published("sd3_vae")})
    with pytest.raises(BadRequest, match="models/vae") as caught:
        settled(catalog, checkpoint="xl")
    assert caught.value.field == "vae"
    catalog = put(**{"vae/another": vae, "vae/sdxl_vae": vae})
    assert settled(catalog, checkpoint="xl").vae == "sdxl_vae"
    assert settled(catalog, checkpoint="xl", vae="another").vae == "another"


def test_the_vae_of_another_checkpoint_is_a_vae(put):
    base = {"checkpoints/xl": without(published("sdxl_base"), "first_stage_model.")}
    catalog = put(**base, **{"checkpoints/whole": published("sdxl_base"), **FILES})
    request = settled(catalog, checkpoint="xl", vae="VAE of whole")
    assert request.vae == "VAE of whole"
    info, vae = catalog.asked_by(request)
    assert (vae.path.stem, vae.source.prefix, vae.config) == ("whole", "first_stage_model.", vae.config)
    assert vae.latent == info.latent
    with pytest.raises(ModelUnsupported, match=r"^VAE of medium has 16 latent channels"):
        settled(catalog, checkpoint="whole", vae="VAE of medium")
    catalog = put(**{"checkpoints/old": published("sd15"), "checkpoints/whole": published("sdxl_base")})
    with pytest.raises(ModelUnsupported, match=r"is one for SD1\.5 or SD2; whole is") as caught:
        settled(catalog, checkpoint="whole", vae="VAE of old")
    assert caught.value.field == "vae"
