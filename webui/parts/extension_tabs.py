"""The tabs of extensions: each drawn on its own, so that one that fails leaves the page whole and says why."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import html
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.context import get_render_context, set_render_context

from backend.errors import UserError
from webui.extending import TabContext
from webui.hook_calls import HookTimeout, within

if TYPE_CHECKING:
    from gradio.block_function import BlockFunction

    from webui.extension_host import ExtensionHost

HANDLER_SECONDS = 60.0  # what takes longer belongs in a thread of the extension's own, or in a generator


def draw_tabs(host: ExtensionHost, page: gr.Blocks, *, numbered_from: int) -> None:
    """Draw every extension's tabs; to be called inside of the page's ``gr.Tabs``.

    Args:
        numbered_from: the number of their first event, if it is above the page's own: another one for other tabs, so
            that an event of a page that is older than its server is unknown instead of another one's.
    """
    page.default_config.fn_id = max(page.default_config.fn_id, numbered_from)
    for owned in host.tabs:
        label, name = owned.spec.label, f"ext_{owned.spec.name}"
        with gr.Tab(label, id=name, elem_id=f"tab_{name}", elem_classes=["extension-tab"]) as tab:
            try:
                with _all_or_nothing(page) as events, host.building(owned.owner):
                    owned.spec.build(TabContext(host.view(owned.owner), tab))
                    for event in events():
                        if event.fn is not None and event.renderable is None:
                            event.fn = _guarded(host, owned.owner, event.fn)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # sys.exit, too
                host.tab_failed(owned.owner, error, where=f"The tab {label!r}")
                words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {str(error)[:300]}"
                told = f"The extension {owned.owner} could not draw this tab. {words}"
                gr.HTML(f'<p class="tab-failed" role="alert">{html.escape(told)}</p>')


@contextmanager
def _all_or_nothing(page: gr.Blocks) -> Iterator[Callable[[], list[BlockFunction]]]:
    """What the block draws is in the page when it ends, and gone from it when it raises, with all its events.

    Yields a function that tells its events so far.
    """
    place = get_render_context()
    config = page.default_config
    blocks, fns, children = set(config.blocks), set(config.fns), len(getattr(place, "children", ()))
    try:
        yield lambda: [event for number, event in config.fns.items() if number not in fns]
        for number in set(config.blocks) - blocks:
            config.blocks[number].get_config()  # what cannot tell of itself would fail the whole page
    except BaseException:
        set_render_context(place)
        for number in set(config.blocks) - blocks:
            del config.blocks[number]
        for number in set(config.fns) - fns:
            del config.fns[number]
        if place is not None:
            del place.children[children:]
        raise
    finally:
        set_render_context(place)  # a context that was entered and never left


def _guarded(host: ExtensionHost, owner: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose faults become toasts, which is given up in time, and which never runs in our event loop."""

    @contextmanager
    def account() -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except gr.Error:
            raise
        except UserError as error:
            raise _toast(str(error)) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            host.tab_failed(owner, error, where="A handler of its tab")
            raise _toast(f"The extension {owner} failed: {type(error).__name__}: {str(error)[:200]}.") from None
        finally:
            host.handled(owner, time.perf_counter() - started)

    @functools.wraps(function)
    def once(*values: Any, **named: Any) -> Any:
        context = contextvars.copy_context()  # gradio's request and progress

        def call() -> Any:
            result = context.run(function, *values, **named)
            return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result

        with account():
            try:
                return within(HANDLER_SECONDS, call)
            except TimeoutError:
                raise HookTimeout(f"A handler of {owner} did not return within {HANDLER_SECONDS:g} s.") from None

    @functools.wraps(function)
    def several(*values: Any, **named: Any) -> Iterator[Any]:
        with account():
            made = function(*values, **named)
            yield from made if inspect.isgenerator(made) else _drained(made)

    return several if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function) else once


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _drained(made: AsyncIterator[Any]) -> Iterator[Any]:
    """What an asynchronous generator yields, in a loop of its own."""
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(anext(made))
            except StopAsyncIteration:
                return
    finally:
        loop.close()


def _toast(words: str) -> gr.Error:
    return gr.Error(html.escape(words), print_exception=False)  # gradio renders toasts as HTML
