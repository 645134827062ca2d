"""Every hook of the web process: what an extension may implement, when it is called, and what becomes of a failure.

An extension implements a hook by writing a function of the same name in the module that its manifest names as ``web``,
marked with ``webui.api.hookimpl``; it takes any of the arguments below by name. The web process has no torch, and none
of these hooks can change a picture. A hook that raises is warned of; the time that each takes, and its failures, are
shown in the Extensions tab.

*Registries* are asked once, while the page is drawn, in the main thread: quickly, please, nobody sees the page before.
One that raises or returns something else switches its extension off here; one that does not return within 30 seconds
ends the process, which comes back without the extension.
*Queue hooks* are called in a thread of the extension's own, one after another, in the order in which things happened,
and are given up after ten seconds. After three failures they are off until the next start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from fastapi import APIRouter

    from webui.extending import Hold, JobRecord, PictureRecord, StudioView, TabSpec
    from webui.word_lists import WordsSpec

PROJECT = "easel"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def on_startup(studio: StudioView) -> None:
    """The web process starts; ``studio`` stays valid until it ends. Kind: observer. Once, before every other hook.

    Called in the main thread before the page is drawn: what takes long belongs in a thread of the extension's own.
    Jobs of a former process wait again already (``studio.waiting()``); no job is started before all extensions are in.
    """
    raise NotImplementedError


@hookspec
def on_shutdown(studio: StudioView) -> None:
    """The web process ends in good order. Kind: observer. Once; not after a crash."""
    raise NotImplementedError


@hookspec
def register_tabs(studio: StudioView) -> Sequence[TabSpec]:
    """Tabs in the page, after Easel's own. Kind: registry.

    Names and labels are unique over the page and all extensions; a clash switches the later extension off with an
    error that names both owners. ``TabSpec.build`` draws with gradio; one that raises has the reason in its place.
    """
    raise NotImplementedError


@hookspec
def register_routes(studio: StudioView) -> APIRouter:
    """Routes below ``/ext/NAME/``, behind the same guard and limits as all others. Kind: registry.

    The router's paths begin after the prefix; folders of files are mounted on it with ``StaticFiles``. Its handlers run
    in an event loop of the extension's own, so that one that blocks it blocks nobody else. A ``UserError`` becomes its
    JSON body; any other exception a 500 that names the extension; no answer within a minute a 504.
    """
    raise NotImplementedError


@hookspec
def register_words(studio: StudioView) -> Sequence[WordsSpec]:
    """Words for the list under the prompt boxes, offered while one types. Kind: registry.

    ``WordsSpec.find`` is asked in a worker thread, for plain words or behind a mark of its own (``__``), and answers
    with a few ``Word``; what it searches stays here. ``WordList`` searches up to 500,000. A search that raises, or
    takes longer than two seconds, is a failure; after three the extension's are off until the next start.
    """
    raise NotImplementedError


@hookspec
def job_enqueued(job: JobRecord, studio: StudioView) -> None:
    """A job waits: it was accepted, or waits again after the engine's end (``attempts`` > 0). Kind: observer.

    Called once for each time, after it is on disk. Not called for jobs that wait as the process starts.
    """
    raise NotImplementedError


@hookspec
def job_started(job: JobRecord, studio: StudioView) -> None:
    """The engine was given a job. Kind: observer. Once for each attempt."""
    raise NotImplementedError


@hookspec
def job_ended(job: JobRecord, studio: StudioView) -> None:
    """A job is done, failed or cancelled, for good. Kind: observer. Once a job."""
    raise NotImplementedError


@hookspec
def picture_saved(picture: PictureRecord, studio: StudioView) -> None:
    """A picture is on disk and in the history. Kind: observer. Once a picture, while its job still runs."""
    raise NotImplementedError


@hookspec
def pick_next(jobs: Sequence[JobRecord], studio: StudioView) -> str | Hold | None:
    """Which waiting job is next: its id; None leaves it to the next extension, and at last to the order of arrival.

    Kind: queue. Called when the engine is free and jobs wait (``jobs``, at least one, the oldest first), and again with
    each change of the queue; ``Hold(reason)`` keeps them waiting and is asked again every few seconds, or at once after
    ``studio.look_at_queue()``. An answer that is none of these, an exception, and no answer within ten seconds are a
    failure, and the order of arrival holds. No job waits for ever: one that was passed over 100 times is next.
    """
    raise NotImplementedError
