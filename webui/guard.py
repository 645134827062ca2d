"""Who may ask: Host list, Origin rule, token. Pure ASGI, in front of every route, gradio's included.

Host comes first (a foreign page may rebind its name to 127.0.0.1), then closed routes, then the Origin rule (a foreign
page may send requests to localhost), then the token (anybody may, with ``--listen``).
"""

from __future__ import annotations

import hashlib
import hmac
import html
import re
import socket
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from backend.errors import BadRequest
from webui.answers import json_answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from backend.settings import Settings

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD"})
OPEN_PATHS = frozenset({"/health"})  # answered without a token; tells nothing
COOKIE_DAYS = 30

# Routes of gradio that Easel does not use and that fetch, tell or keep something.
CLOSED = re.compile(
    r"/gradio_api/(proxy=|file=https?:|vibe|undo-vibe|dev/|run-history|runs|stream/|process_recording|profiling"
    r"|user\b|token\b|openapi\.json|deep_link)|/(monitoring|login|logout|pwa_icon|manifest\.json|openapi\.json)\b"
)

# What gradio needs: inline scripts and styles in its page, `new Function` for js= of events and gr.HTML, blobs for
# workers and previews. Nothing may come from or go to another place.
CONTENT_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "connect-src 'self' data: blob:",
        "frame-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)
SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_OURS = frozenset(name for name, _ in SECURITY_HEADERS)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """By which names we may be reached, and the secret a client must show, if any."""

    hosts: frozenset[str] = LOOPBACK
    token: str = field(default="", repr=False)
    cookie: str = "easel_token"

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """The policy that the settings ask for; with ``listen`` the machine's own names and addresses count too.

        Raises:
            BadRequest: a name in ``allow_host`` that cannot be one.
        """
        own = machine_names() if settings.listen else frozenset[str]()
        hosts = LOOPBACK | own | {_allowed(name) for name in settings.allow_host}
        # A cookie is sent to every port of a host: one name per server keeps two of them apart.
        return cls(hosts=hosts, token=settings.token, cookie=f"easel_token_{settings.port}")

    def proof(self) -> str:
        """What the cookie holds: not the token itself, so that a browser's store does not give it away."""
        return hashlib.sha256(b"easel cookie\0" + self.token.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An answer instead of the wanted one."""

    status: int
    what: str
    todo: str = ""
    code: str = "bad_request"


class Guard:
    """ASGI middleware: refuses what ``Policy`` does not allow and puts security headers on every answer."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one exchange on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            if self._refusal(scope) is None and self._shows_token(scope):
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})  # before the accept: the server answers 403
        else:
            await self._http(scope, receive, _with_security_headers(send))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            await send_refusal(refusal, send)
        elif scope["path"] in OPEN_PATHS or self._shows_token(scope):
            scope["headers"] = [(name, value) for name, value in scope["headers"] if not _is_forwarded(name)]
            await self._app(scope, receive, send)
        elif (location := self._login(scope)) is not None:
            await self._send_cookie(location, scope["scheme"], send)
        else:
            await _send_unauthorized(scope, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        host = _host(scope)
        if host is None or host not in self._policy.hosts:
            return Refusal(
                status=400,
                what="This server does not answer by the host name of the request.",
                todo="Use the address that easel printed at its start, or add the name with --allow-host.",
            )
        if CLOSED.match(scope["path"]):
            return Refusal(status=404, what="There is no such page.", code="not_found")
        if not _from_own_page(scope):
            return Refusal(
                status=403,
                what="The request comes from another site's page, which may not use Easel.",
                todo="Open Easel's own page, or call it from a program instead of a page.",
                code="forbidden",
            )
        return None

    def _shows_token(self, scope: Scope) -> bool:
        if not self._policy.token:
            return True
        scheme, _, given = _one_header(scope, b"authorization").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), self._policy.token):
            return True
        try:
            cookies = SimpleCookie(_one_header(scope, b"cookie"))
        except CookieError:
            return False
        cookie = cookies.get(self._policy.cookie)
        return cookie is not None and _same(cookie.value, self._policy.proof())

    def _login(self, scope: Scope) -> str | None:
        """Where to go on after a right ``?token=`` in the address; ``None`` if there is none."""
        if scope["type"] != "http" or scope["method"] != "GET":
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not any(name == "token" and _same(value, self._policy.token) for name, value in query):
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        path = "/" + scope.get("raw_path", b"/").decode("latin-1").lstrip("/\\")  # never "//other.site"
        return path + ("?" + rest if rest else "")

    async def _send_cookie(self, location: str, scheme: str, send: Send) -> None:
        secure = "; Secure" if scheme == "https" else ""
        cookie = (
            f"{self._policy.cookie}={self._policy.proof()}; Path=/; Max-Age={COOKIE_DAYS * 86400}; "
            f"HttpOnly; SameSite=Strict{secure}"
        )
        headers = [(b"location", location.encode("latin-1")), (b"set-cookie", cookie.encode()),
                   (b"cache-control", b"no-store"), (b"content-length", b"0")]  # fmt: skip
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def machine_names() -> frozenset[str]:
    """Names and addresses of this machine, for ``--listen``; asks the operating system only, not the network."""
    import psutil

    name = socket.gethostname().lower()
    addresses = {entry.address.split("%")[0].lower() for entries in psutil.net_if_addrs().values() for entry in entries
                 if entry.family in {socket.AF_INET, socket.AF_INET6}}  # fmt: skip
    return frozenset(addresses | {name, name.split(".")[0], f"{name.split('.')[0]}.local"})


async def send_refusal(refusal: Refusal, send: Send) -> None:
    """Answer with the JSON body that all errors have."""
    body = {"code": refusal.code, "what": refusal.what, "todo": refusal.todo, "field": None}
    for message in json_answer(refusal.status, body):
        await send(message)


def _with_security_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            # gradio echoes any Origin with credentials when it is reached by another name than localhost.
            kept = [(name, value) for name, value in message.get("headers", ()) if not _is_replaced(name.lower())]
            message = {**message, "headers": [*kept, *SECURITY_HEADERS]}
        await send(message)

    return guarded


def _allowed(name: str) -> str:
    found = host_name(name)
    if found is None:
        raise BadRequest(f"--allow-host {name[:80]!r} is no host name.", "Give it as the browser's address has it.")
    return found


def _is_replaced(name: bytes) -> bool:
    return name.startswith(b"access-control-") or name in _OURS or name == b"server"


def _is_forwarded(name: bytes) -> bool:
    # gradio builds addresses from these; nobody stands in front of us who would set them honestly.
    return name.startswith(b"x-forwarded-") or name in {b"forwarded", b"x-gradio-server", b"x-real-ip"}


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _one_header(scope: Scope, name: bytes) -> str:
    """The value of a header that was sent once; empty otherwise."""
    values = _headers(scope, name)
    return values[0] if len(values) == 1 else ""


def _host(scope: Scope) -> str | None:
    """The host name of the one Host header; ``None`` if there is none, or two."""
    values = _headers(scope, b"host")
    return host_name(values[0]) if len(values) == 1 else None


def host_name(value: str) -> str | None:
    """The name in ``name``, ``name:port``, ``[::1]:port``, lower case; ``None`` for anything else."""
    match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?", value.strip().lower())
    return None if match is None else match[1] or match[2]


def _from_own_page(scope: Scope) -> bool:
    """Whether our own page, a person's address bar or no browser at all sent this (datasette's rule).

    Stricter than it for safe methods: a foreign page may open Easel in a tab and nothing else, so that it cannot embed
    pictures, listen to event streams or time answers.
    """
    sites = set(_headers(scope, b"sec-fetch-site"))
    if sites:
        if sites <= {"same-origin", "none"}:
            return True
        return (
            scope["type"] == "http"
            and scope["method"] in SAFE_METHODS
            and _headers(scope, b"sec-fetch-mode") == ["navigate"]
            and _headers(scope, b"sec-fetch-dest") == ["document"]
        )
    origins = set(_headers(scope, b"origin"))
    return not origins or origins == {_own_origin(scope)}


def _own_origin(scope: Scope) -> str:
    secure = scope["scheme"] in {"https", "wss"}
    host = _one_header(scope, b"host").strip().lower()
    return f"https://{host.removesuffix(':443')}" if secure else f"http://{host.removesuffix(':80')}"


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode())


async def _send_unauthorized(scope: Scope, send: Send) -> None:
    what = "This Easel asks for its token."
    todo = "Open the address with ?token=... once, or send it as Authorization: Bearer."
    if "text/html" not in _one_header(scope, b"accept"):
        for message in json_answer(401, {"code": "unauthorized", "what": what, "todo": todo, "field": None}):
            await send(message)
        return
    # The form leads to the address with ?token=, which answers with the cookie.
    page = (
        f"<!doctype html><meta charset=utf-8><title>Easel</title><p>{html.escape(what)}</p>"
        "<form action=/ ><label>Token <input type=password name=token autofocus></label> <button>Open</button></form>"
    ).encode()
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store"),
               (b"content-length", str(len(page)).encode())]  # fmt: skip
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": page})
