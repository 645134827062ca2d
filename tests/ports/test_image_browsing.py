"""Infinite Image Browsing's core as an extension: what was saved is found by its words, over real HTTP."""

from __future__ import annotations

import time

import pytest

from tests.ports.place import install
from tests.webui.running import running

BASE = "/ext/image_browsing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browsed")


@pytest.fixture(scope="module")
def here(folder):
    with running(folder) as before:  # saved while the extension was not there
        before.wait(before.submit(prompt="an old (castle:1.2), snow", negative_prompt="rain")["id"])
    install(folder, "image_browsing")
    with running(folder, extended=True) as here:
        here.wait(here.submit(prompt="a fox, snow", batch_count=2)["id"])
        here.wait(here.submit(prompt="a <b>boat</b>", sampler="heun")["id"])
        wait_for(lambda: len(ask(here, "/pictures")["pictures"]) == 4)
        yield here


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def ask(here, path, status=200, **query):
    answer = here.client.get(BASE + path, params=query)
    assert answer.status_code == status, answer.text
    return answer.json()


def found(here, **query):
    return [row["prompt"] for row in ask(here, "/pictures", **query)["pictures"]]


def test_pictures_are_found_by_words_model_and_sampler_those_of_before_too(here):
    assert found(here) == ["a <b>boat</b>", "a fox, snow", "a fox, snow", "an old (castle:1.2), snow"]
    assert found(here, text="FOX") == ["a fox, snow"] * 2
    assert found(here, word="snow") == ["a fox, snow", "a fox, snow", "an old (castle:1.2), snow"]
    assert found(here, word="an old castle", text="rain") == ["an old (castle:1.2), snow"]
    assert found(here, sampler="heun") == ["a <b>boat</b>"]
    assert found(here, model="xl", limit=1) == ["a <b>boat</b>"]
    assert found(here, text="100%_'\"") == []


def test_tags_are_counted(here):
    assert ask(here, "/tags/word")["tags"][0] == {"name": "snow", "pictures": 3}
    assert {"name": "xl", "pictures": 4} in ask(here, "/tags/model")["tags"]
    assert ask(here, "/tags/colour", 404)["todo"] == "Known: word, model, sampler, size."


def test_metadata_are_read_from_the_file_itself(here):
    picture = ask(here, "/pictures", text="castle")["pictures"][0]
    told = ask(here, f"/pictures/{picture['id']}")
    assert told["source"] == "easel"
    assert told["picture"]["negative_prompt"] == "rain"
    assert told["facts"]["device"] == "fake"
    assert here.client.get(picture["thumb"]).headers["content-type"] == "image/webp"
    assert ask(here, "/pictures/nobody", 404)["code"] == "not_found"


def test_the_outputs_folder_is_browsed_as_it_lies_on_disk(here, folder):
    day = ask(here, "/folders")["folders"][0]
    assert day["pictures"] == 4
    (folder / "outputs" / day["name"] / "broken.png").write_bytes(b"no picture")
    files = {file["name"]: file["parameters"] for file in ask(here, f"/folders/{day['name']}")["files"]}
    assert files.pop("broken.png") == "This is no picture that Easel can read. Send a PNG, JPEG or WebP file."
    assert len(files) == 4
    assert all("Steps: 4" in text for text in files.values())
    assert ask(here, "/folders/.hidden", 404)
    assert ask(here, "/folders/%2e%2e", 404)
    assert here.client.get(f"{BASE}/folders/%2e%2e%2f%2e%2e").status_code == 404


def test_its_files_are_served_behind_the_guard(here):
    css = here.client.get(f"{BASE}/static/browsing.css")
    assert css.status_code == 200
    assert css.headers["content-type"].startswith("text/css")
    assert css.headers["x-content-type-options"] == "nosniff"
    assert here.client.get(f"{BASE}/static/../web.py").status_code == 404
    assert here.client.get(f"{BASE}/static/%2e%2e/web.py").status_code == 404
    assert here.client.get(f"{BASE}/static/browsing.css", headers={"Host": "evil.example"}).status_code == 400
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert here.client.get(f"{BASE}/pictures", headers=embedded).status_code == 403


def test_the_list_tells_hooks_and_their_time(here):
    rows = {row["name"]: row for row in here.client.get("/api/v1/extensions").json()["extensions"]}
    web = rows["image_browsing"]["web"]
    assert web["status"] == "on"
    assert web["hooks"] == ["on_shutdown", "on_startup", "picture_saved", "register_routes", "register_tabs"]
    assert web["hook_calls"]["picture_saved"] == 3
    assert web["hook_calls"]["register_routes"] > 5
    assert web["hook_seconds"]["picture_saved"] > 0
    assert rows["guidance"]["web"] is None
