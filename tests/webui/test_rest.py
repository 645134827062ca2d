"""REST over real HTTP: orders, pictures, inputs, and every kind of bad request."""

from __future__ import annotations

import io
import json
import math
import tempfile
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.formats.files import published, write_sparse
from tests.webui.running import jobs_of, png, running


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with running(tmp_path_factory.mktemp("studio")) as here:
        yield here


def check_error(answer, code="bad_request", field=None):
    assert 400 <= answer.status_code < 500, answer.text
    body = answer.json()
    assert set(body) == {"code", "what", "todo", "field"}
    assert body["code"] == code, body
    if field is not None:
        assert body["field"] == field
    sentence = f"{body['what']} {body['todo']}"
    assert 10 <= len(body["what"]) <= 900
    assert "Traceback" not in sentence
    assert "/work/" not in sentence
    assert str(Path(tempfile.gettempdir())) not in sentence
    return body


def test_a_job_becomes_a_picture_that_is_served_byte_for_byte(here):
    told = here.submit(prompt="a fox", batch_size=2)
    job = here.wait(told["id"])
    first = job["images"][0]
    assert job["tab"] == "txt2img"
    assert job["request"]["sampler"]
    assert first["seed"] == 7
    answer = here.client.get(first["url"])
    _, path = here.studio.image(first["id"])
    assert answer.content == path.read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert "immutable" in answer.headers["cache-control"]
    assert str(path) not in json.dumps(job)


def test_thumbnails_are_small_and_downloads_are_attachments(here):
    job = here.wait(here.submit(prompt="a fox", width=1024, height=512)["id"])
    image = job["images"][0]
    for _ in range(2):  # made, then kept
        small = here.client.get(image["thumb"])
        assert Image.open(io.BytesIO(small.content)).size == (384, 192)
        assert small.headers["content-type"] == "image/webp"
    kept = here.client.get(image["url"] + "?download=1")
    assert kept.headers["content-disposition"].startswith("attachment; filename*=UTF-8''")


def test_ranges_and_head_of_a_picture_are_answered(here):
    image = here.wait(here.submit(prompt="a fox")["id"])["images"][0]
    assert here.client.get(image["url"], headers={"range": "bytes=0-7"}).content == b"\x89PNG\r\n\x1a\n"
    head = here.client.head(image["url"])
    assert head.status_code == 200
    assert not head.content
    assert here.client.get(image["url"], headers={"range": "bytes=9-1"}).status_code < 500


def test_the_state_has_a_version_and_says_when_nothing_changed(here):
    job = here.wait(here.submit(prompt="a fox")["id"])
    state = here.client.get("/api/v1/state").json()
    assert state["engine"]["state"] == "ready"
    assert state["engine"]["device"] == "fake"
    assert state["jobs"][0]["id"] == job["id"]
    same = here.client.get("/api/v1/state", params={"since": state["version"]}).json()
    assert same == {"version": state["version"], "unchanged": True}
    here.submit(prompt="a cat")
    assert here.client.get("/api/v1/state", params={"since": state["version"]}).json()["version"] > state["version"]


def test_the_state_shows_progress_preview_and_place_in_the_queue(here):
    running_job, waiting = here.submit(prompt="slow"), here.submit(prompt="waits")
    here.wait(running_job["id"], "running")
    seen = {}
    while (state := here.client.get("/api/v1/state").json())["jobs"][1]["state"] == "running":
        seen |= state["jobs"][1]["progress"] or {}
        assert state["jobs"][0]["position"] == 1
    assert seen["steps"] == 4
    assert seen["preview"].startswith("data:image/jpeg;base64,")
    here.wait(waiting["id"])


def test_cancel_stops_a_running_and_a_waiting_job(here):
    first, second = here.submit(prompt="slow", steps=100), here.submit(prompt="waits")
    here.wait(first["id"], "running")
    assert here.client.post(f"/api/v1/jobs/{second['id']}/cancel").json()["state"] == "cancelled"
    assert here.client.post(f"/api/v1/jobs/{first['id']}/cancel").status_code == 202
    here.wait(first["id"], "cancelled")
    assert here.client.post(f"/api/v1/jobs/{first['id']}/cancel").json()["state"] == "cancelled"


def test_the_same_key_twice_is_one_job(here):
    body = {"prompt": "once", "steps": 1}
    by_header = [here.client.post("/api/v1/jobs", json=body, headers={"idempotency-key": "k1"}) for _ in range(2)]
    by_field = [here.client.post("/api/v1/jobs", json={**body, "idempotency_key": "k2"}) for _ in range(2)]
    assert len({answer.json()["id"] for answer in by_header}) == 1
    assert len({answer.json()["id"] for answer in by_field}) == 1


def test_an_input_is_stored_by_hash_and_used_as_init_image_and_mask(here):
    stored = here.client.post("/api/v1/inputs", content=png(256, 256)).json()
    mask = here.client.post("/api/v1/inputs", content=png(256, 256, (255, 255, 255))).json()
    assert (stored["width"], stored["height"]) == (256, 256)
    picture = here.client.get(f"/api/v1/inputs/{stored['sha256']}")
    assert Image.open(io.BytesIO(picture.content)).getpixel((0, 0)) == (200, 30, 30)
    job = here.submit(prompt="a fox", init_image=stored["sha256"], mask=mask["sha256"])
    assert job["tab"] == "inpaint"
    other = here.client.post("/api/v1/inputs", content=png(64, 64)).json()
    answer = here.client.post("/api/v1/jobs", json={"init_image": stored["sha256"], "mask": other["sha256"]})
    check_error(answer, field="mask")
    missing = here.client.post("/api/v1/jobs", json={"init_image": "0" * 64})
    check_error(missing, "not_found")


def test_a_picture_is_read_back(here):
    info = here.client.post("/api/v1/read", content=png()).json()
    assert info["source"] == "none"
    check_error(here.client.post("/api/v1/read", content=b"GIF89a"))


def read_models(here):
    """By name, once every header was read."""
    end = time.monotonic() + 20
    while (told := here.client.get("/api/v1/models?look=1").json())["unread"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    return {model["name"]: model for model in told["models"]}


def test_models_are_told_with_what_is_wrong_with_them(here):
    models = read_models(here)
    assert models["xl"]["family"] == "sdxl"
    assert models["xl"]["precision"] == "fp16"
    assert models["xl"]["usable"]
    assert not models["page"]["usable"]
    assert models["page"]["sentence"]
    assert str(Path(tempfile.gettempdir())) not in json.dumps(models)


def test_models_are_told_zipped_and_anew_when_something_changed(here):
    checkpoints = here.studio.settings.models_dir / "checkpoints"
    read_models(here)
    before = here.client.get("/api/v1/models").json()
    assert here.client.get("/api/v1/state").json()["models"] == before["version"]
    for number in range(60):
        (checkpoints / f"junk-{number}.safetensors").write_bytes(b"<html>")
    try:
        answer = here.client.get("/api/v1/models?look=1")
        assert answer.headers["content-encoding"] == "gzip"
        assert len(answer.json()["models"]) == len(before["models"]) + 60
        assert here.client.get("/api/v1/state").json()["models"] > before["version"]
    finally:
        for path in checkpoints.glob("junk-*"):
            path.unlink()
        read_models(here)


def test_what_lies_beside_a_model_is_told_by_its_id(here):
    checkpoints = here.studio.settings.models_dir / "checkpoints"
    (checkpoints / "xl.json").write_text(json.dumps({"activation text": "<img src=x>a fox"}))
    (checkpoints / "xl.preview.png").write_bytes(png(800, 400))
    (checkpoints / "page.png").write_bytes(b"\x89PNG no picture")
    models = read_models(here)
    told = here.client.get(f"/api/v1/models/{models['xl']['id']}").json()
    assert told["sidecar"] == [{"label": "Activation text", "text": "a fox"}]
    answer = here.client.get(models["xl"]["preview"])
    assert answer.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (384, 192)
    assert here.client.get(models["xl"]["preview"]).content == answer.content
    (checkpoints / "xl.preview.png").write_bytes(png(400, 400))
    models = read_models(here)
    with Image.open(io.BytesIO(here.client.get(models["xl"]["preview"]).content)) as picture:
        assert picture.size == (384, 384)
    assert len(list((here.studio.settings.data_dir / "thumbs" / "models").iterdir())) == 1
    check_error(here.client.get(models["page"]["preview"]), "not_found")
    for path in ("0" * 16, "..%2f..%2feasel.sqlite", "%00", "xl", "a" * 5000):
        check_error(here.client.get(f"/api/v1/models/{path}"), "not_found")
        check_error(here.client.get(f"/api/v1/models/{path}/preview"), "not_found")


def test_a_question_is_answered_over_http(here):
    checkpoints = here.studio.settings.models_dir / "checkpoints"
    write_sparse(checkpoints / "big.safetensors", published("sd35_large"))
    (question,) = (model := read_models(here)["big"])["questions"]
    assert question["answer"] is None
    other = next(option for option in question["options"] if option != question["assumed"])
    body = {"model": model["id"], "about": question["about"], "answer": other}
    told = here.client.post("/api/v1/models/answers", json=body).json()
    assert told["variant"] == other
    assert told["questions"][0]["answer"] == other
    assert read_models(here)["big"]["variant"] == other
    for wrong in ({"answer": "x"}, {"about": "x"}, {"model": "x"}, {"path": "/etc"}, {"answer": 7}):
        code = "not_found" if wrong == {"model": "x"} else "bad_request"
        check_error(here.client.post("/api/v1/models/answers", json={**body, **wrong}), code)
    assert here.client.post("/api/v1/models/answers", json={**body, "answer": None}).json()["questions"] == [question]
    check_error(here.client.post("/api/v1/models/answers", json={**body, "about": "x", "answer": None}), "bad_request")
    no_answer = {"model": model["id"], "about": question["about"]}
    check_error(here.client.post("/api/v1/models/answers", json=no_answer), "bad_request")
    foreign = here.client.post("/api/v1/models/answers", json=body, headers={"origin": "http://evil.example"})
    assert foreign.status_code == 403
    (checkpoints / "big.safetensors").unlink()


def test_registry_schema_and_health(here):
    assert here.client.get("/api/v1/registry").json()["samplers"][0]["name"]
    assert here.client.get("/api/v1/schema").json()["properties"]["prompt"]["maxLength"] == 100_000
    assert here.client.get("/health").json() == {"status": "ok"}


def test_presets_are_requests(here):
    presets = {row["name"]: row for row in here.client.get("/api/v1/presets").json()["presets"]}
    fields = presets["lightning-4"]["fields"]
    assert fields == {"steps": 4, "cfg_scale": 1.0, "sampler": "euler", "schedule": "sgm_uniform"}
    job = here.client.post("/api/v1/jobs", json={"prompt": "a fox", **fields}).json()
    assert job["request"]["steps"] == 4


def test_what_the_form_holds_becomes_the_fields_of_a_request(here):
    values = {
        "prompt": "a fox",
        "steps": 20.0,
        "clip_skip": "2",
        "shift": 3.0,
        "checkpoint": "xl",
        "mask": "",
        "seed": -1,
    }
    told = here.client.post("/api/v1/form", json={"values": values}).json()
    # an SDXL checkpoint reads no shift, and an emptied box is not sent
    assert told["fields"] == {"prompt": "a fox", "steps": 20, "clip_skip": 2, "checkpoint": "xl", "seed": -1}
    check_error(here.client.post("/api/v1/form", json={"values": {"stepz": 1}}), field="stepz")
    check_error(here.client.post("/api/v1/form", json={"values": 1}), field="values")


def test_tokens_are_counted_as_the_checkpoint_counts(here):
    answer = here.client.post("/api/v1/tokens", json={"checkpoint": "xl", "prompt": "a red fox"})
    assert answer.json() == {"used": 3, "capacity": 75}
    check_error(here.client.post("/api/v1/tokens", json={"checkpoint": "none", "prompt": "x"}), "not_found")
    check_error(here.client.post("/api/v1/tokens", json={"prompt": 1}), field="prompt")
    check_error(here.client.post("/api/v1/tokens", json={"prompt": "x", "more": 1}), field="more")


BAD_BODIES = {
    "empty": b"",
    "cut": b'{"prompt": "a fo',
    "not an object": b"[1]",
    "text": b'"a fox"',
    "null": b"null",
    "deep array": b'{"prompt": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "fairly deep": b'{"prompt": ' + b"[" * 500 + b"]" * 500 + b"}",
    "latin-1": '{"prompt": "Füchse"}'.encode("latin-1"),
    "utf-16": '{"prompt": "a fox"}'.encode("utf-16"),
    "NaN": b'{"cfg_scale": NaN}',
    "infinity": b'{"cfg_scale": -Infinity}',
    "1e999": b'{"cfg_scale": 1e999}',
    "many digits": b'{"seed": ' + b"9" * 10_000 + b"}",
    "a field twice": b'{"prompt": "a", "prompt": "b"}',
    "unknown field": b'{"promt": "a fox"}',
    "NUL": b"\x00",
    "lone surrogate": b'{"prompt": "\\ud800"}',
    "lone surrogate as a name": b'{"\\ud800": 1}',
    "array for text": b'{"prompt": ["a fox"]}',
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_a_sentence(here, name):
    before = jobs_of(here)
    headers = {"content-type": "application/json"}
    check_error(here.client.post("/api/v1/jobs", content=BAD_BODIES[name], headers=headers))
    check_error(here.client.post("/api/v1/tokens", content=BAD_BODIES[name], headers=headers))
    assert jobs_of(here) == before


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
             "application/json; charset=latin-1", "application/json; charset=", "application/jsonp"],
)  # fmt: skip
def test_another_content_type_is_refused(here, kind):
    answer = here.client.post("/api/v1/jobs", content=b'{"prompt": "a fox"}', headers={"content-type": kind})
    if kind.endswith("charset="):
        assert answer.status_code == 202
    else:
        check_error(answer)


ODD_VALUES = [-2, 2**63, 1.5, True, [], math.inf, "../../etc/passwd\0"]


def test_no_value_in_any_field_is_a_fault(here):
    properties = here.client.get("/api/v1/schema").json()["properties"]
    for name in properties:
        for value in ODD_VALUES:
            body = json.dumps({name: value}).replace("Infinity", "1e999")
            answer = here.client.post("/api/v1/jobs", content=body, headers={"content-type": "application/json"})
            if answer.status_code != 202:
                check_error(answer, answer.json()["code"])
            else:
                here.client.post(f"/api/v1/jobs/{answer.json()['id']}/cancel")


def test_a_name_that_is_not_known_brings_the_nearest(here):
    body = check_error(here.client.post("/api/v1/jobs", json={"sampler": "eulr a"}), field="sampler")
    assert "Did you mean" in body["what"]
    check_error(here.client.post("/api/v1/jobs", json={"checkpoint": "nothing"}), "not_found", field="checkpoint")


def test_a_body_that_is_too_big_is_refused_announced_or_chunked(here):
    big = b'{"prompt": "' + b"a" * 2**20 + b'"}'
    headers = {"content-type": "application/json"}
    assert here.client.post("/api/v1/jobs", content=big, headers=headers).status_code == 413
    chunks = (big[i : i + 65536] for i in range(0, len(big), 65536))
    assert here.client.post("/api/v1/jobs", content=chunks, headers=headers).status_code == 413
    assert here.client.post("/api/v1/inputs", content=b"x" * (33 * 2**20)).status_code == 413
    assert here.client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/api", "/api/", "/api/v1", "/api/v2/jobs", "/api/v1/nothing", "/api/v1/jobs/none", "/api/v1/jobs/%00",
     "/api/v1/jobs/none/none", "/api/v1/images/none", "/api/v1/images/..%2f..%2feasel.sqlite", "/api/v1/images/",
     "/api/v1/images/%2e%2e%2f%2e%2e%2fetc%2fpasswd?thumb=1", "/api/v1/inputs/..%2feasel.sqlite", "/api/v1/inputs/x",
     "/api/v1/inputs/" + "0" * 64, "/api/v1/inputs/" + "A" * 5000, "/api/v1/images/%ff%fe"],
)  # fmt: skip
def test_unknown_paths_and_ids_are_404_in_json(here, path):
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = here.client.request(method, path)
        assert answer.status_code == 404, (method, answer.status_code, answer.text[:200])
        check_error(answer, "not_found")


@pytest.mark.parametrize("query", ["since=x", "since=1.5", "since=" + "9" * 30, "since=-2", "since=", "since=١"])
def test_a_bad_query_is_a_sentence(here, query):
    check_error(here.client.get(f"/api/v1/state?{query}"), field="since")
    check_error(here.client.get(f"/api/v1/jobs?{query.replace('since', 'limit')}"), field="limit")


def test_a_picture_outside_the_outputs_folder_is_never_served(here, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    job = here.wait(here.submit(prompt="a fox")["id"])
    outside = here.studio.store.add_image(
        job["id"], index=1, path=str(secret), seed=1, width=64, height=64, parameters=""
    )
    gone = here.studio.store.add_image(job["id"], index=2, path="outputs/x", seed=1, width=1, height=1, parameters="")
    for image in (outside, gone):
        for query in ("", "?thumb=1"):
            check_error(here.client.get(f"/api/v1/images/{image.id}{query}"), "not_found")


def test_a_picture_tells_the_request_that_it_was_made_from(here):
    job = here.wait(here.submit(prompt="asked for later")["id"])
    told = here.client.get(f"{job['images'][0]['url']}/made").json()
    assert told == {"image": job["images"][0], "request": job["request"]}
    assert here.client.get("/api/v1/images/nobody/made").status_code == 404
