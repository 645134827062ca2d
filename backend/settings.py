"""Settings of one installation: defaults < ``settings.toml`` in the data folder < ``EASEL_*`` environment < flags.

None of them can be written over HTTP. What changes a picture is a field of the request instead, save for those that
the metadata names beside it (device, dtype, guidance batching).
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from backend.errors import BadRequest

LowMemory = Literal["auto", "on", "off"]

PROJECT = Path(__file__).resolve().parent.parent


def _default_data_dir() -> Path:
    return PROJECT if (PROJECT / "pyproject.toml").is_file() else user_data_path("easel")


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


#: A folder or file of the user's, which stays the same one whatever becomes of the process's working folder.
Place = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """What the two processes are told at start. Field descriptions are the command line's help."""

    model_config = SettingsConfigDict(env_prefix="EASEL_", extra="forbid", frozen=True)

    data_dir: Annotated[Place, Field(description="Folder of outputs/, inputs/, easel.sqlite and settings.toml.")] = (
        Field(default_factory=_default_data_dir)
    )
    models_dir: Annotated[Place, Field(description="Folder of checkpoints/, vae/, text_encoders/ ...")] = (
        PROJECT / "models"
    )
    models_from: Annotated[
        tuple[Place, ...],
        Field(description="Tree of A1111, Forge or ComfyUI, or an extra_model_paths.yaml, to read models from too."),
    ] = ()
    extensions_dir: Annotated[
        tuple[Place, ...], Field(description="Further folder of extensions, beside the data folder's extensions/.")
    ] = ()
    no_extensions: Annotated[bool, Field(description="Start without any extension.")] = False
    port: Annotated[int, Field(ge=1, le=65535, description="Port of the page.")] = 7860
    listen: Annotated[bool, Field(description="Answer other machines too; demands a token.")] = False
    token: Annotated[str, Field(max_length=200, description="Secret that every client must show.")] = ""
    allow_host: Annotated[
        tuple[str, ...], Field(description="Further host names by which the page may be reached.")
    ] = ()
    device: Annotated[str, Field(max_length=20, description="auto, cpu, mps, cuda or cuda:N.")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], Field(description="Arithmetic; auto follows the device.")
    ] = "auto"
    memory_gb: Annotated[
        float, Field(ge=0, le=4096, description="Budget for models kept in memory; 0: half of what the device has.")
    ] = 0
    low_memory: Annotated[
        LowMemory,
        Field(
            description="Keep weights in their file's format and cast them layer by layer: slower, in half the memory; "
            "auto: for models that would not fit otherwise."
        ),
    ] = "auto"
    guidance_batching: Annotated[
        Literal["auto", "batched", "two passes"],
        Field(description="CFG as one batch of two or as two passes; auto follows device and size."),
    ] = "auto"
    preview_decoder: Annotated[
        Literal["auto", "linear"],
        Field(description="Live previews by a tiny decoder of models/previews, if one fits; or by a linear map."),
    ] = "auto"
    preview_every: Annotated[int, Field(ge=0, le=150, description="Steps between live previews; 0: none.")] = 1
    jpeg_quality: Annotated[int, Field(ge=1, le=100, description="Quality of JPEG and WebP files.")] = 92
    hash_models: Annotated[
        Literal["when idle", "on use"],
        Field(description="When a model's A1111 hash is computed: while no job runs, or with its first picture."),
    ] = "when idle"
    inputs_days: Annotated[
        int, Field(ge=0, le=36_500, description="Days after which sent pictures that nothing uses go; 0: never.")
    ] = 30
    inputs_gb: Annotated[
        float, Field(ge=0, le=1_000_000, description="Room for sent pictures; beyond it unused ones go; 0: no limit.")
    ] = 10
    threads: Annotated[int, Field(ge=0, le=1024, description="CPU threads of the engine; 0: torch decides.")] = 0

    @property
    def outputs_dir(self) -> Path:
        """Where pictures go, in a folder a day."""
        return self.data_dir / "outputs"

    @property
    def inputs_dir(self) -> Path:
        """Init images and masks, stored once by sha256."""
        return self.data_dir / "inputs"

    @property
    def extension_folders(self) -> tuple[Path, ...]:
        """Where a user's own extensions lie; the shipped ones are part of the program."""
        return (self.data_dir / "extensions", *self.extensions_dir)

    @property
    def approvals(self) -> Path:
        """Which extensions the user has switched on or off."""
        return self.data_dir / "extensions.json"

    @property
    def database(self) -> Path:
        """The job store; only the web process writes it."""
        return self.data_dir / "easel.sqlite"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line first, then environment, then ``settings.toml``."""
        given = init_settings().get("data_dir") or os.environ.get("EASEL_DATA_DIR")
        folder = _absolute(Path(given)) if given else _default_data_dir()
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, folder / "settings.toml")


def load_settings(**command_line: Any) -> Settings:
    """All sources merged; options that are ``None`` count as not given.

    Raises:
        BadRequest: naming the setting, the value and what is accepted.
    """
    try:
        return Settings(**{k: v for k, v in command_line.items() if v is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        shown = "given" if name == "token" else repr(first["input"])[:60]  # a secret is not repeated
        raise BadRequest(f"Setting {name} is {shown}: {first['msg']}.", "See easel --help.", field=name) from None
    except SettingsError as error:
        raise BadRequest(
            f"A setting in the environment cannot be read: {error}.", 'Lists are JSON: EASEL_ALLOW_HOST=["my.host"].'
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadRequest(f"settings.toml cannot be read: {error}.", "Correct or remove that line.") from None
