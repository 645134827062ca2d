"""Command-line options made from the fields of ``Settings`` and of the request: names and help stand there alone."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from backend.errors import BadRequest, NotFound, UserError
from backend.request import request_schema
from backend.settings import Settings, load_settings

Command = TypeVar("Command", bound=Callable[..., Any])
PLAIN_KINDS: Mapping[object, Any] = {int: click.INT, float: click.FLOAT, str: click.STRING}

#: Flags by which A1111's users know a value of a setting.
ALIASES: Mapping[str, Mapping[str, str]] = {"low_memory": {"--lowvram": "on", "--medvram": "on"}}

PICTURES = {"init_image": "Picture to start from.", "mask": "Mask of its size; white is repainted."}


class Sentence(click.ClickException):
    """A ``UserError`` on the terminal: one sentence on stderr, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Write it to stderr."""
        click.echo(f"easel: {self.message}", err=True, file=file)


class Fault(Sentence):
    """A fault of ours: still a sentence; ``python -X dev -m webui`` shows the traceback."""

    exit_code = 1


class SentenceCommand(click.Command):
    """A command whose errors become sentences."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise Sentence(str(error)) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):  # `| head`: click's to end
            raise
        except Exception as error:
            if sys.flags.dev_mode:
                raise
            raise Fault(f"Easel itself failed ({type(error).__name__}: {error}).") from None


def settings_options(*names: str) -> Callable[[Command], Command]:
    """Add an option for each field of ``Settings`` (or only these); what is not given is ``None``."""
    chosen = {name: info for name, info in Settings.model_fields.items() if not names or name in names}

    def add(command: Command) -> Command:
        for name, info in reversed(chosen.items()):
            for flag, value in ALIASES.get(name, {}).items():
                text = f"The same as --{name.replace('_', '-')} {value}."
                command = click.option(flag, name, flag_value=value, default=None, help=text)(command)
            command = _option(name, info)(command)
        return command

    return add


def settings_from(given: Mapping[str, Any]) -> Settings:
    """The settings that an invocation means. Raises ``BadRequest``."""
    return load_settings(**{name: value for name, value in given.items() if value not in (None, ())})


def request_options(command: Command) -> Command:
    """An option for each field of the request; what is not given is ``None`` and left to the checkpoint."""
    for name, schema in reversed(request_schema()["properties"].items()):
        if name == "prompt":
            continue
        flag = "--" + name.replace("_", "-")
        text = ". ".join(filter(None, [schema.get("title"), schema.get("description")])).rstrip(".") + "."
        if name in PICTURES:
            kind = click.Path(exists=True, dir_okay=False, path_type=Path)
            command = click.option(flag, name, type=kind, help=PICTURES[name])(command)
        elif _is_switch(schema):
            command = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)(command)
        elif schema.get("type") == "object":
            help_ = "A value of an extension's panel, PANEL.FIELD=VALUE, or =@FILE for a picture; may be given often."
            command = click.option("--set", name, multiple=True, metavar="PANEL.FIELD=VALUE", help=help_)(command)
        else:
            command = click.option(flag, name, type=_schema_kind(schema), default=None, help=text)(command)
    return command


def _is_switch(schema: Mapping[str, Any]) -> bool:
    return any(each.get("type") == "boolean" for each in schema.get("anyOf", (schema,)))


def panel_values(given: Sequence[str], store: Callable[[Path], str]) -> dict[str, Any]:
    """``("pag.scale=3", "pag")`` as a request's ``extensions``; a panel without a field is on with its defaults.

    Args:
        store: keeps the picture of ``controlnet.picture=@edges.png`` and tells its sha256.
    Raises:
        BadRequest: one that has another form; NotFound: there is no such picture.
    """
    panels: dict[str, Any] = {}
    for text in given:
        path, _, written = text.partition("=")
        panel, _, field = path.strip().rpartition(".") if "=" in text else (path.strip(), "", "")
        if not panel:
            raise BadRequest(f"--set {text[:60]!r} has no panel.", "Write PANEL.FIELD=VALUE.", field="extensions")
        values = panels.setdefault(panel, {"values": {}})["values"]
        if field:
            values[field] = store(Path(written[1:])) if written.startswith("@") else _json_or_text(written)
    return panels


def with_pictures(fields: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The fields of an invocation as a request has them: panels as objects, pictures as the hashes of stored inputs.

    Picture files go through the same gate as in the page, and into the same folder.

    Raises:
        BadRequest, NotFound: as ``panel_values``; a picture that cannot be read.
    """
    store = partial(_store, settings)
    panels = {"extensions": panel_values(fields["extensions"], store)} if "extensions" in fields else {}
    return {**fields, **panels, **{name: store(fields[name]) for name in PICTURES if name in fields}}


def _store(settings: Settings, path: Path) -> str:
    from backend.records.images import Inputs

    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}.", "Give a picture's file.") from None
    return Inputs(settings.inputs_dir).store(data).sha256


def _json_or_text(written: str) -> Any:
    try:
        return json.loads(written)
    except ValueError:
        return written


def _option(name: str, info: FieldInfo) -> Callable[[Command], Command]:
    flag = "--" + name.replace("_", "-")
    arguments: dict[str, Any] = {"default": None, "help": f"{info.description} {_default_text(info)}".strip()}
    kind = info.annotation
    if kind is bool:
        arguments |= {"is_flag": True}
    elif get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        arguments |= {"multiple": True, "metavar": "PATH" if inner is Path else "NAME", "type": kind_of(inner)}
    else:
        arguments |= {"type": kind_of(kind)}
    return click.option(flag, name, **arguments)


def kind_of(annotation: object) -> Any:
    """The click type for a plain annotation; ``X | None`` counts as X."""
    if get_origin(annotation) in {Union, types.UnionType}:
        return kind_of(next(each for each in get_args(annotation) if each is not type(None)))
    if get_origin(annotation) is Literal:
        return click.Choice(list(get_args(annotation)))
    if annotation is Path:
        return click.Path(path_type=Path)
    return PLAIN_KINDS.get(annotation, click.STRING)


def _schema_kind(schema: Mapping[str, Any]) -> Any:
    node = next((each for each in schema.get("anyOf", ()) if each.get("type") != "null"), schema)
    if "enum" in node:
        return click.Choice(node["enum"])
    return {"integer": click.INT, "number": click.FLOAT}.get(node.get("type", ""), click.STRING)


def _default_text(info: FieldInfo) -> str:
    if info.default_factory is not None or info.default in ("", (), False):
        return ""
    return f"[default: {info.default}]"
