"""The files of a new extension: a panel, a patch that works on every family, a README and a test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from backend.errors import BadRequest, DiskFull
from backend.manifest import bundled_folder

NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")

MANIFEST = """\
name = "{name}"
title = "{title}"
version = "1"
api = ">=1,<2"
description = "More or less contrast."
engine = "hooks"
"""

HOOKS = '''\
"""{title}: one panel, and the patch that it asks for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from backend.api import AfterGuidance, JobView, ModelView, PanelSpec, Parameters, Patch, Scope, hookimpl, number


class {kind}(Parameters):
    """What the panel shows; an instance is ``job.values["{name}"]``."""

    amount: float = number(1.1, low=0.5, high=1.5, label="Amount", help="1 changes nothing.")
    start: float = number(0.0, low=0.0, high=1.0, label="From", help="Share of the steps.")
    end: float = number(0.5, low=0.0, high=1.0, label="To", help="Share of the steps.")


def spread(latent: Tensor, amount: float) -> Tensor:
    """The latent, (B, C, H, W), with its distance from each channel's mean times ``amount``."""
    mean = latent.mean(dim=(2, 3), keepdim=True)
    return mean + (latent - mean) * amount


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """What the page shows."""
    return [PanelSpec("{name}", "{title}", {kind}, help="More or less contrast.")]


@hookimpl
def patch_job(job: JobView, model: ModelView) -> Sequence[Patch]:
    """Called once a job, while the panel is on."""
    chosen = job.values["{name}"]
    assert isinstance(chosen, {kind})
    scope = Scope(start=chosen.start, end=chosen.end)
    return [AfterGuidance(scope=scope, label="contrast", change=lambda guided, _outputs: spread(guided, chosen.amount))]
'''

README = """\
# {title}

An extension for Easel. Panel `{name}`: how far each step's picture is spread around its mean.

Copy or link this folder into `extensions/` of Easel's data folder, look at it in the Extensions tab and approve it
(or `easel extension enable {name}`). Without the page: `easel generate "a fox" --set {name}.amount=1.2`

`easel extension check .` tries it on tiny models of both families; `pytest` runs the tests.
"""

TEST = '''\
"""What the patch promises. Run pytest where Easel is installed: the fixtures are Easel's."""

import torch


def test_1_changes_nothing_and_means_stay(easel_module):
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(easel_module.spread(latent, 1.0), latent, atol=1e-6)
    more = easel_module.spread(latent, 1.5)
    assert torch.allclose(more.mean(dim=(2, 3)), latent.mean(dim=(2, 3)), atol=1e-6)
    assert more.std() > latent.std()


def test_the_panel_changes_the_picture_of_every_family(easel_pixels, easel_ask, easel_checkpoint):
    asked = {{"{name}": {{"values": {{"amount": 1.4}}}}}}
    assert easel_pixels(easel_ask(easel_checkpoint, extensions=asked)) != easel_pixels(easel_ask(easel_checkpoint))


def test_it_keeps_what_every_extension_promises(easel_conformance):
    easel_conformance().assert_passed()
'''

FILES: Mapping[str, str] = {
    "extension.toml": MANIFEST,
    "hooks.py": HOOKS,
    "README.md": README,
    "tests/test_{name}.py": TEST,
}


def write_new_extension(parent: Path, name: str, files: Mapping[str, str] = FILES) -> Path:
    """A folder ``parent/name`` with an extension that works.

    Args:
        files: templates by path.

    Raises:
        BadRequest: the name is none, or the folder is there already.
        DiskFull: it cannot be written.
    """
    if not NAME.fullmatch(name):
        raise BadRequest(
            f"{name[:60]!r} is no name for an extension.", "Accepted: small letters, digits and _, as in film_grain."
        )
    if (bundled_folder() / name).exists():
        raise BadRequest(f"An extension called {name} ships with Easel.", "Choose another name.")
    home = parent / name
    if home.exists():
        raise BadRequest(f"{home} is there already.", "Choose another name.")
    words = {"name": name, "title": name.replace("_", " ").capitalize(), "kind": _class_name(name)}
    try:
        for place, content in files.items():
            path = home / place.format(**words)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content.format(**words), encoding="utf-8")
    except OSError as error:
        raise DiskFull(f"{home} cannot be written ({error.strerror}).", "Choose another place.") from None
    return home


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_")) + "Parameters"
