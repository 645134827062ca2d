"""The page: quick bar, tabs, and the wiring between them; also what gradio is told when the page is mounted.

Generation never lives in a gradio event: Generate checks the form, hands the request over and returns at once. What
becomes of it is observed by our own script (assets/), which polls /api/v1/state.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from backend.errors import BadRequest, UserError
from backend.formats.inputs import extra_inputs
from backend.request import parse_request
from webui.form import Control, for_family, help_texts, to_request
from webui.parts.bridge import Bridge
from webui.parts.extension_tabs import draw_tabs
from webui.parts.field_groups import groups_json
from webui.parts.look import head, theme
from webui.parts.presets import presets_json
from webui.parts.quick_bar import QuickBar, quick_bar
from webui.tabs import extensions, img2img, inpaint, models, png_info, txt2img
from webui.tabs.generation import GenerationTab

if TYPE_CHECKING:
    from webui.extension_host import ExtensionHost
    from webui.studio import Studio

# Filled by our script when Generate is pressed: sha256 of picture and mask; a key that makes a double click one job.
HIDDEN = ("init_image", "mask", "key")


def mount_options(host: ExtensionHost | None = None) -> dict[str, Any]:
    """Keyword arguments for ``gr.mount_gradio_app`` that make the look: theme, styles and scripts."""
    page = page_identity(host) if host is not None else ""
    return {"theme": theme(), "head": head({**_told(host), "page": page})}


def _told(host: ExtensionHost | None) -> dict[str, Any]:
    """What the scripts are told: help texts, groups that panels may adopt, what presets fill in, the marks of words."""
    marks = host.words.marks if host is not None else []
    return {"helps": help_texts(), "groups": groups_json(), "presets": presets_json(), "words": marks}


def page_identity(host: ExtensionHost) -> str:
    """Another one whenever scripts or extensions' tabs are others: an open page then loads itself anew."""
    drawn = [head(_told(host)), *(f"{tab.owner} {host.approved(tab.owner)}" for tab in host.tabs)]
    return hashlib.sha256("\n".join(drawn).encode()).hexdigest()[:16]


def build_page(studio: Studio, host: ExtensionHost | None = None) -> gr.Blocks:
    """Draw the page for one studio, with the extensions' tabs; values are those that the first checkpoint wants."""
    with gr.Blocks(title="Easel", analytics_enabled=False, fill_width=True) as page:
        bar = quick_bar(studio)
        checkpoint = str(bar.fields["checkpoint"].value or "")
        hidden: dict[str, Control] = {
            name: gr.Textbox(visible="hidden", elem_id=f"easel_{name}", label=name, container=False) for name in HIDDEN
        }
        with gr.Tabs(elem_id="tabs") as tab_row:
            built = [module.build(studio, checkpoint) for module in (txt2img, img2img, inpaint)]
            png_info.build()
            models.build()
            extensions.build()
        tabs = {tab.name: tab for tab in built}
        for tab in built:
            _wire_tab(tab, studio, bar, hidden)
        _wire_bridge(Bridge(studio, bar.fields, tabs), bar)
        if host is not None:
            # Last, so that our own events have the same numbers whatever extensions there are: a page that is older
            # than its server can still press Generate.
            with tab_row:
                draw_tabs(host, page, numbered_from=int(page_identity(host), 16) % 10**6 * 1000)
    return page


def submit(studio: Studio, tab: str, values: dict[str, Any]) -> None:
    """Check what the form holds and hand it over as a job.

    Raises:
        BadRequest: naming the field, or what the tab still needs.
    """
    key = values.pop("key", None) or None
    fields = to_request(values)
    if tab == "txt2img":
        fields = {k: v for k, v in fields.items() if k not in {"init_image", "mask"}}
    elif "init_image" not in fields:
        raise BadRequest(f"{tab} needs a picture to start from.", "Drop one on the picture box, or send a result here.")
    elif tab == "inpaint" and "mask" not in fields:
        raise BadRequest("Nothing is painted yet.", "Paint over what should be made anew.", field="mask")
    studio.submit(parse_request(for_checkpoint(studio, fields)), key=key)


def for_checkpoint(studio: Studio, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The form's fields without those that the chosen checkpoint does not read; raises ``NotFound``."""
    info = studio.catalog.checkpoint(fields.get("checkpoint", ""))
    return for_family(fields, info.family, extra_inputs(info.denoiser))


def _wire_tab(tab: GenerationTab, studio: Studio, bar: QuickBar, hidden: dict[str, Control]) -> None:
    inputs: dict[str, Any] = {**bar.fields, **tab.fields, **hidden}
    names, own = json.dumps(list(inputs)), json.dumps(tab.name)

    tab.prompt.generate.click(
        _submit_handler(studio, tab.name),
        inputs_kwargs=inputs,
        js=f"async (...values) => await easel.beforeSubmit({own}, {names}, values)",
        api_visibility="private",
        show_progress="hidden",
        concurrency_limit=None,
    ).then(None, js="() => easel.lookNow()")
    tab.prompt.interrupt.click(None, js="() => easel.interrupt()")
    tab.prompt.paste.click(
        None, tab.fields["prompt"], js=f"(text) => easel.send('apply', {{tab: {own}, text, source: 'prompt'}})"
    )
    both = [tab.fields["prompt"], tab.fields["negative_prompt"]]
    tab.prompt.clear.click(None, None, both, js="() => ['', '']")
    gr.on(
        [component.change for component in tab.fields.values()],
        None,
        list(tab.fields.values()),
        js=f"(...values) => easel.remember({own}, {json.dumps(list(tab.fields))}, values)",
        trigger_mode="multiple",  # costs nothing, and none may be lost while another is on its way
    )


def _submit_handler(studio: Studio, tab: str) -> Callable[..., None]:
    def handle(**values: Any) -> None:
        try:
            submit(studio, tab, values)
        except UserError as error:
            # gradio renders toasts as HTML, and the sentence quotes what the user typed
            raise gr.Error(html.escape(str(error)), title="Not started", print_exception=False) from None

    return handle


def _wire_bridge(bridge: Bridge, bar: QuickBar) -> None:
    shared = list(bar.fields.values())
    quiet: dict[str, Any] = {
        "outputs": bridge.components(),
        "concurrency_limit": None,
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    bar.bridge.restore(bridge.restore, **quiet).then(None, shared, js="(...shared) => easel.restored(shared)")
    boxes = [tab.fields["extensions"] for tab in bridge.tabs.values()]
    bar.bridge.apply(bridge.apply, **quiet).then(None, boxes, js="(...texts) => easel.panelsTold(texts)")
    bar.bridge.wanted(bridge.wanted, **quiet).then(None, js="() => easel.wantedShown()")
    bar.bridge.rescan(bridge.rescan, **quiet)
    bar.refresh.click(bridge.look, **quiet).then(None, js="() => easel.modelsChanged()")
    bar.defaults.click(None, bar.fields["checkpoint"], js="(name) => easel.checkpointChosen(name, false)")
    gr.on(
        [component.change for component in shared],
        None,
        shared,
        js=f"(...values) => easel.remember('shared', {json.dumps(list(bar.fields))}, values)",
        trigger_mode="multiple",  # costs nothing, and none may be lost while another is on its way
    )
