"""From bytes to values: request bodies of any badness, as values or as a ``BadRequest``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from backend.errors import BadRequest

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_DEPTH = 20  # nothing that Easel takes is nested deeper than three


async def json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        BadRequest: another content type or charset, no JSON, no object, a name twice, NaN, nested too deep.
    """
    kind, _, options = request.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json":
        raise BadRequest(f"The content type is {kind[:60]!r}.", "Send JSON with Content-Type: application/json.")
    charset = options.strip().lower().removeprefix("charset=").strip("\"' ")
    if charset not in {"", "utf-8", "utf8"}:
        raise BadRequest(f"The charset is {charset[:40]!r}.", "JSON is UTF-8.")
    return parse_object(await request.body())


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object from bytes; raises ``BadRequest`` as ``json_object``."""
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_doubles, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise BadRequest("The body is not UTF-8.", "JSON is UTF-8.") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", "Send a JSON object."
        ) from None
    except ValueError:  # a whole number of thousands of digits
        raise BadRequest("A number in the body has too many digits.", "Send a smaller number.") from None
    if not isinstance(value, dict):
        raise BadRequest(f"The body is a JSON {_kind(value)}.", 'Send a JSON object, as {"prompt": "a fox"}.')
    _check_inside(value)
    return value


def check_names(body: dict[str, Any], accepted: Iterable[str]) -> None:
    """Refuse a name that is not known. Raises ``BadRequest``."""
    names = list(accepted)
    for name in body:
        if name not in names:
            raise BadRequest(
                f"Field {name[:80]!r} is not known here.", f"Accepted: {', '.join(names)}.", field=name[:80]
            )


def text(body: dict[str, Any], name: str, *, longest: int, default: str | None = None) -> str:
    """A text of the body. Raises ``BadRequest``."""
    value = body.get(name, default)
    if not isinstance(value, str) or len(value) > longest:
        raise BadRequest(
            f"{name} is {'missing' if value is None else 'not usable'}.",
            f"Accepted: text of at most {longest} characters.",
            field=name,
        )
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"{double[:80]!r} stands twice in the body.", "Send each field once.", field=double[:80])
    return found


def _no_constant(name: str) -> NoReturn:
    raise BadRequest(f"The body holds {name}, which is not JSON.", "Send a finite number.")


def _check_inside(value: object) -> None:
    """Refuse what lies too deep, and text that is no Unicode. Level by level: recursion would end before it could."""
    level = [value]
    for _ in range(MAX_DEPTH):
        for each in level:
            if isinstance(each, str) and not _is_unicode(each):
                raise BadRequest("A text in the body holds half a character (a lone surrogate).", "Send whole text.")
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in ([*each, *each.values()] if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise _too_deep()


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_deep() -> BadRequest:
    return BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", "Send a flat JSON object.")


def _kind(value: object) -> str:
    kinds = {list: "array", str: "string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "number")
