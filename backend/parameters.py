"""Parameters as data: what an extension lets a user set, from which panel, REST schema, checks and metadata derive.

No torch: the web process knows them as JSON Schema only, from the registry document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from backend.errors import BadRequest, unknown_name

#: Lists of the registry document that a field can name a row of.
Registered = Literal["preprocessors", "samplers", "schedules"]
#: Type of a field that ``options`` makes: values by name, and a ``version`` of theirs.
Options = Mapping[str, bool | int | float | str]


class Parameters(BaseModel):
    """Base of an extension's parameters: frozen fields with bounds, label and help, and a version.

    A pydantic model rather than a dataclass, so that an author's class needs no decorator. Every field has a default.

    Attributes:
        version: raise it when a field's name or meaning changes, and say in ``migrated`` what old values become.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    version: ClassVar[int] = 1

    @classmethod
    def migrated(cls, version: int, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values that a picture of an older ``version`` carries, as this version's; by default as they are."""
        del version
        return values

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Refuse a class whose panel could not be drawn, or that would not take its own defaults."""
        for name, field in cls.model_fields.items():
            if field.is_required():
                raise TypeError(f"{cls.__name__}.{name} needs a default")
            if not field.title:
                raise TypeError(
                    f"{cls.__name__}.{name} needs a label: use number(), whole(), flag(), choice() or text()"
                )
            if hasattr(Parameters, name):
                raise TypeError(f"{cls.__name__}.{name} is a name that Parameters itself has: call the field otherwise")
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            if field.annotation is str and not extra:  # every other field of text says what it is
                raise TypeError(f'{cls.__name__}.{name} is a choice: write its names as its type, Literal["a", "b"]')
            if (other := extra.get("options_of")) is not None and other not in cls.model_fields:
                raise TypeError(f"{cls.__name__}.{name} holds options of {other!r}, which is no field of it")
        if cls.__pydantic_complete__:  # else a type of its fields is not known yet
            _check_defaults(cls)


def _check_defaults(kind: type[Parameters]) -> None:
    defaults = {name: field.default for name, field in kind.model_fields.items()}
    try:
        kind(**defaults)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise TypeError(
            f"{kind.__name__}.{where} does not take its own default {first['input']!r}: {first['msg']}"
        ) from None


def number(default: float, *, low: float, high: float, label: str, step: float = 0.01, help: str = "") -> Any:
    """A number from ``low`` to ``high``, drawn as a slider."""
    return _field(default, label, help, ge=low, le=high, json_schema_extra={"step": step})


def whole(default: int, *, low: int, high: int, label: str, step: int = 1, help: str = "") -> Any:
    """A whole number from ``low`` to ``high``, drawn as a slider."""
    return _field(default, label, help, ge=low, le=high, json_schema_extra={"step": step})


def flag(default: bool = False, *, label: str, help: str = "") -> Any:
    """Yes or no."""
    return _field(default, label, help)


def choice(default: str, *, label: str, help: str = "") -> Any:
    """One of the names of the field's ``Literal`` type."""
    return _field(default, label, help)


def registered(default: str, kind: Registered, *, label: str, help: str = "") -> Any:
    """One of the names that the core and the extensions have registered: a preprocessor, a sampler, a schedule."""
    if kind not in get_args(Registered):
        raise ValueError(unknown_name("the list", kind, get_args(Registered)))
    return _field(default, label, help, json_schema_extra={"registry": kind})


def options(field: str, *, label: str, help: str = "") -> Any:
    """What can be set for that which another field names (see ``registered``), drawn below it while it is chosen.

    The field's type is ``Options``. Values are read where they are used: they are the parameters of what is named.
    """
    return _field({}, label, help, json_schema_extra={"options_of": field})


def text(
    default: str = "", *, longest: int = 2000, lines: int = 1, shown: bool = True, label: str, help: str = ""
) -> Any:
    """Free text of at most ``longest`` characters; one that is not ``shown`` only travels with a request."""
    extra = {"lines": lines} if shown else {"lines": lines, "shown": False}
    return _field(default, label, help, max_length=longest, json_schema_extra=extra)


def axis(*, label: str, help: str = "") -> Any:
    """A parameter of the job by its name and the values that it takes, ``steps: 10, 20, 30``; "" for none.

    The page offers the names; what cannot be read, or is not taken by the parameter, is refused before the job is
    accepted. ``backend.api.read_axis`` tells the values.
    """
    return _field("", label, help, max_length=20_000, json_schema_extra={"kind": "axis"})


def picture(*, label: str, mask: bool = False, help: str = "") -> Any:
    """A picture that the user gives: the sha256 of a stored input, "" for none. ``job.picture`` or ``mask`` loads it.

    Args:
        mask: it is a mask: what is white (or, where something is transparent, opaque) counts.
    """
    extra = {"picture": "mask" if mask else "picture"}
    return _field("", label, help, pattern=r"^([0-9a-f]{64})?$", json_schema_extra=extra)


def file(folder: str, *, label: str, empty: str = "None", help: str = "") -> Any:
    """A file of ``models/<folder>``, by the name that the Models tab gives it, or "", which is drawn as ``empty``."""
    return _field("", label, help, max_length=255, json_schema_extra={"folder": folder, "empty": empty})


class _Made(FieldInfo):  # pyright: ignore[reportGeneralTypeIssues] - by its types, not when it runs
    """A field that knows why it may be called: below ``text: str = text(...)`` the name means the field."""

    __slots__ = ()

    def __call__(self, *_: object, **__: object) -> Any:
        raise TypeError(
            f"the field {self.title!r} is named like the function that makes it, which hides that function from the "
            "lines below: call the field otherwise"
        )


def _field(default: Any, label: str, help: str, **rest: Any) -> FieldInfo:
    made = Field(default, title=label, description=help or None, **rest)
    made.__class__ = _Made
    return made


def read_parameters(kind: type[Parameters], owner: str, stored: Mapping[str, Any]) -> Parameters:
    """The parameters that a request's ``{"version": n, "values": {...}}`` means, migrated and checked.

    Raises:
        BadRequest: naming the panel, the field, the value and what is wrong with it.
    """
    version = stored.get("version", kind.version)
    if version > kind.version:
        raise BadRequest(
            f"The values for {owner} are of version {version}; the one installed reads up to {kind.version}.",
            "Update the extension, or set its values again.",
            field="extensions",
        )
    values = stored.get("values", {})
    if version < kind.version:
        values = kind.migrated(version, values)
    unknown = next((name for name in values if name not in kind.model_fields), None)
    if unknown is not None:
        raise BadRequest(unknown_name(f"{owner}: field", str(unknown), kind.model_fields), field="extensions")
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        label = kind.model_fields[name].title if name in kind.model_fields else name
        shown = repr(first["input"])[:60]
        raise BadRequest(
            f"{owner}: {label} ({name}) is {shown}, which cannot be used.", f"{first['msg']}.", field="extensions"
        ) from None


def check_window(label: str, start: float, end: float) -> None:
    """Refuse a window of the steps that holds none, as fields *From* and *To* may set it.

    Args:
        label: of the panel.
        start, end: shares of the steps.
    Raises:
        BadRequest: naming the panel.
    """
    if start >= end:
        raise BadRequest(
            f"{label}: From ({start:g}) must lie before To ({end:g}).", "Set To higher.", field="extensions"
        )
