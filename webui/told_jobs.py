"""Jobs as page and REST see them: their rows, with the place in the queue and what is known of the running one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from backend.records.job_rows import Job
from backend.records.jobs import JobStore
from webui.job_facts import job_json
from webui.live import Live

SHOWN_JOBS = 30  # in the page


class ToldJobs:
    """Jobs as JSON. Finished ones do not change, so they are kept."""

    def __init__(self, store: JobStore, live: Live) -> None:
        self._store = store
        self._live = live
        self._kept: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """So many, newest first."""
        places = self._places()
        return [self._told(job, places) for job in self._store.list(limit)]

    def one(self, job_id: str) -> dict[str, Any]:
        """One of them. Raises ``NotFound``."""
        return self._told(self._store.get(job_id), self._places())

    def _places(self) -> Mapping[str, int]:
        return {job_id: place for place, job_id in enumerate(self._store.queue(), start=1)}

    def _told(self, job: Job, places: Mapping[str, int]) -> dict[str, Any]:
        if job.is_finished and job.id in self._kept:
            return self._kept[job.id]
        progress = self._live.progress(job.id) if job.state == "running" else None
        told = job_json(job, position=places.get(job.id), progress=progress, plan=self._live.plan(job.id))
        if job.is_finished:
            self._kept[job.id] = told
            while len(self._kept) > 2 * SHOWN_JOBS:
                self._kept.popitem(last=False)
        return told
