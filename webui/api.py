"""Everything that the web side of an extension may import; names here stay what they are through API 1.

An extension's web module imports this module, gradio, fastapi and whatever it brings along, and nothing else of Easel:
never ``backend.api``, which is the engine's and needs torch. Its hooks are described in ``webui.hookspecs``.
"""

from __future__ import annotations

from backend.errors import BadRequest, NotFound, UserError
from backend.manifest import API_VERSION
from backend.records.images import StoredInput
from backend.records.job_rows import JobState
from backend.records.metadata import PictureInfo
from backend.request import GenerationRequest, parse_request, request_to_json
from webui.extending import Hold, JobRecord, PictureRecord, StudioView, TabContext, TabSpec
from webui.hookspecs import hookimpl
from webui.word_lists import Word, WordList, WordsSpec

__all__ = [
    "API_VERSION",
    "BadRequest",
    "GenerationRequest",
    "Hold",
    "JobRecord",
    "JobState",
    "NotFound",
    "PictureInfo",
    "PictureRecord",
    "StoredInput",
    "StudioView",
    "TabContext",
    "TabSpec",
    "UserError",
    "Word",
    "WordList",
    "WordsSpec",
    "hookimpl",
    "parse_request",
    "request_to_json",
]
