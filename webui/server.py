"""The web process: engine first, then gradio, then the port. Never imports torch.

Started by the launcher as ``python -m webui.server``. The order matters for the start-up time: the engine imports
torch on another core while this process imports gradio.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backend.errors import BadRequest, DiskFull
from backend.settings import Settings
from webui.engine_start import ENGINE_COMMAND
from webui.gradio_start import prepare_gradio
from webui.guard import Policy
from webui.handover import HandedOver, take
from webui.hook_calls import Deadlines
from webui.launcher import ENDED_WELL
from webui.options import SentenceCommand, settings_from, settings_options
from webui.renewal import OPTION, Renewal, hand_over, start_anew
from webui.studio import Studio

if TYPE_CHECKING:
    import uvicorn

LOG_BYTES = 5 * 2**20
NOISY = ("httpx", "httpcore", "asyncio", "PIL", "multipart", "python_multipart", "gradio")


@click.command(cls=SentenceCommand, add_help_option=False)
@settings_options()
@click.option("--autolaunch", is_flag=True)
@click.option("--stop-with-stdin", is_flag=True, hidden=True)
@click.option(OPTION, type=int, hidden=True)
def serve(autolaunch: bool, stop_with_stdin: bool, handed_over: int | None, **given: object) -> None:
    """Answer on the port until told to stop; wrong settings, a taken port or data folder end with a sentence."""
    handed = None if handed_over is None else take(handed_over)
    settings = settings_from(given) if handed is None else handed.settings
    run(settings, autolaunch=autolaunch, stop_with_stdin=stop_with_stdin, handed=handed)
    if stop_with_stdin:
        sys.exit(ENDED_WELL)


def run(
    settings: Settings,
    *,
    command: Sequence[str] = ENGINE_COMMAND,
    autolaunch: bool = False,
    stop_with_stdin: bool = False,
    deadlines: Deadlines | None = None,
    handed: HandedOver | None = None,
) -> None:
    """Serve until told to stop, with ``command`` as the engine process.

    Args:
        stop_with_stdin: there is a launcher, which holds the other end of our stdin.
        deadlines: of extensions.
        handed: by the former image of this process, which wished to be started anew: its port and its engine.
    Raises:
        UserError: wrong settings, a taken port or data folder.
    """
    gc.disable()  # while modules load there is nothing to free: a tenth of the time until the page answers
    check(settings)
    start_logging(settings.data_dir)
    listener = bind(settings) if handed is None else handed.listener()
    port = listener.dup()  # the server closes its own when it ends
    engine = None
    studio = Studio(settings, command=command, renewal=Renewal() if stop_with_stdin else None)
    studio.start(feed=False, handed=None if handed is None else handed.engine)
    try:
        server = build_server(studio, autolaunch=autolaunch, deadlines=deadlines)
        gc.freeze()  # what is there now stays
        gc.enable()
        if stop_with_stdin:
            threading.Thread(target=_stop_with_stdin, args=[server], name="stdin", daemon=True).start()
        server.run(sockets=[listener])
        is_renewed = studio.renewal is not None and studio.renewal.leaving.is_set()
        engine = hand_over(studio) if is_renewed else None
    finally:
        studio.close()
    if is_renewed:
        start_anew(settings, port.fileno(), engine)


def check(settings: Settings) -> None:
    """Refuse settings that would leave the studio open to strangers, or closed. Raises ``BadRequest``."""
    if settings.listen and not settings.token:
        raise BadRequest(
            "--listen lets other machines in, so it demands a token.",
            "Add --token and a long secret, or set EASEL_TOKEN.",
            field="token",
        )
    Policy.of(settings)


def bind(settings: Settings) -> socket.socket:
    """Take the port before anything slow happens.

    Raises:
        BadRequest: another program has it, or it needs more rights.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere it would let two servers share the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("0.0.0.0" if settings.listen else "127.0.0.1", settings.port))  # noqa: S104 - a token is demanded
        listener.listen(256)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        why = "is taken by another program" if taken else f"cannot be used ({error.strerror})"
        raise BadRequest(f"Port {settings.port} {why}.", "Choose another one with --port.", field="port") from None
    return listener


def build_server(studio: Studio, *, autolaunch: bool, deadlines: Deadlines | None = None) -> uvicorn.Server:
    """Import gradio and the extensions, draw the page, and set up the server around it; jobs are run from then on."""
    prepare_gradio(studio.settings.data_dir / ".uploads")
    import uvicorn

    from webui.app import build_app
    from webui.extension_host import ExtensionHost
    from webui.page import build_page, mount_options, page_identity

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            _announce(studio.settings, autolaunch=autolaunch)

    host = ExtensionHost.load(studio, deadlines)
    page = build_page(studio, host)
    studio.page = page_identity(host)
    studio.extend(host)
    config = uvicorn.Config(
        build_app(studio, page, mount_options(host), host),
        log_config=None,
        access_log=False,  # addresses may hold the token
        proxy_headers=False,
        server_header=False,
        ws="none",  # gradio 6 speaks server-sent events
        timeout_graceful_shutdown=3,
    )
    server = Server(config)
    if studio.renewal is not None:
        studio.renewal.of(server)
    return server


def start_logging(data_dir: Path) -> None:
    """Everything from INFO goes to easel.log, warnings to the console too. Raises ``DiskFull``."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = RotatingFileHandler(data_dir / "easel.log", maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8")
    except OSError as error:
        raise DiskFull(
            f"The data folder {data_dir} cannot be written ({error.strerror}).", "Choose another one with --data-dir."
        ) from None
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)
    console.setFormatter(logging.Formatter("easel: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[file, console])
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _announce(settings: Settings, *, autolaunch: bool) -> None:
    address = f"http://127.0.0.1:{settings.port}/"
    others = f", for other machines at http://{socket.gethostname()}:{settings.port}/" if settings.listen else ""
    hint = " Open it once with ?token=<your token> behind it." if settings.token else ""
    click.echo(f"Easel is at {address}{others}  (Ctrl+C ends it).{hint}")
    if autolaunch:
        from urllib.parse import quote

        webbrowser.open(address + (f"?token={quote(settings.token)}" if settings.token else ""))


def _stop_with_stdin(server: uvicorn.Server) -> None:
    """The launcher holds the other end of our stdin; when it is gone, so are we."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    server.should_exit = True


if __name__ == "__main__":
    serve(prog_name="easel")
