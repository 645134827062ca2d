"""What a job and its pictures are, for page and REST alike: by ids, never by paths of the machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from backend.records.job_rows import Job, JobImage
from backend.request import request_to_json
from webui.live import Progress


def job_json(job: Job, *, position: int | None, progress: Progress | None, plan: str | None) -> dict[str, Any]:
    """One job.

    Args:
        position: in the queue, from 1; None if it does not wait.
        progress: of a running job that has begun a step.
        plan: what the engine told before it ran the job, in words.
    """
    return {
        "id": job.id,
        "state": job.state,
        "tab": job.request.tab,
        "prompt": job.request.prompt,
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "position": position,
        "progress": None if progress is None else asdict(progress),
        "plan": plan,
        "images": [image_json(image) for image in job.images],
        "notes": list(job.notes),
        "error": job.error,
        "request": request_to_json(job.request),
    }


def image_json(image: JobImage) -> dict[str, Any]:
    """One picture of a job."""
    url = f"/api/v1/images/{image.id}"
    return {
        "id": image.id,
        "url": url,
        "thumb": f"{url}?thumb=1",
        "index": image.index,
        "width": image.width,
        "height": image.height,
        "seed": image.seed,
        "parameters": image.parameters,
    }
