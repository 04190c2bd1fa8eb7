"""Calls on the emulator's Batch API over real HTTP."""

import json
import time
from itertools import chain

import httpx

from .emulator_api import CAT

_FIELDS = {"requests": "batch_request_metadata", "results": "results"}


def video(prompt="A cat", **body):
    return {"video_generation": CAT | {"prompt": prompt} | body}


def entries(*prompts, **body):
    """One request for each prompt, with the prompt as its id."""
    return [{"batch_request_id": prompt, "batch_request": video(prompt, **body)} for prompt in prompts]


def numbered(count):
    return [f"Cat {number}" for number in range(count)]


class Batch:
    """The calls on one batch."""

    def __init__(self, api, **body):
        self.api = api
        self.created = api.http.post("/batches", json={"name": "cats"} | body).json()
        self.path = f"/batches/{self.created['batch_id']}"

    def add(self, *requests) -> httpx.Response:
        return self.api.http.post(f"{self.path}/requests", json={"batch_requests": requests})

    def get(self) -> dict:
        return self.api.http.get(self.path).json()

    def cancel(self) -> dict:
        return self.api.http.post(f"{self.path}:cancel").json()

    def page(self, kind, **query) -> list[dict]:
        return self.api.http.get(f"{self.path}/{kind}", params=query).json()[_FIELDS[kind]]

    def pages(self, kind, limit=100) -> list[list[str]]:
        """The ids in all pages."""
        found, query = [], {"limit": limit}
        while True:
            page = self.api.http.get(f"{self.path}/{kind}", params=query).json()
            found.append(
                [entry["batch_request_id"] for entry in page.get("results") or page["batch_request_metadata"]]
            )
            if page["pagination_token"] is None:
                return found
            query["pagination_token"] = page["pagination_token"]

    def ids(self, kind) -> list[str]:
        return list(chain.from_iterable(self.pages(kind)))

    def wait(self, finished) -> dict:
        """Wait until so many requests are no longer pending; returns the counters."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            state = self.get()["state"]
            if state["num_requests"] - state["num_pending"] >= finished:
                return state
            time.sleep(0.03)
        raise TimeoutError(state)

    def states(self) -> dict[str, str]:
        return {entry["batch_request_id"]: entry["state"] for entry in self.page("requests")}

    def error(self, **query) -> object:
        (result,) = self.page("results", **query)
        return result["batch_result"], result.get("error_message")


def url_of(result) -> str:
    return result["batch_result"]["response"]["video_generation"]["video"]["url"]


def choose(api, fault, submissions=1):
    url = api.base_url.removesuffix("/v1") + "/emulator/faults"
    assert api.anonymous.post(url, json={"fault": fault, "submissions": submissions}).status_code == 200


def line(custom_id, path="generations", **body):
    return {"custom_id": custom_id, "method": "POST", "url": f"/v1/videos/{path}", "body": CAT | body}


def from_file(api, *lines):
    content = "\n".join(text if isinstance(text, str) else json.dumps(text) for text in lines)
    file = api.http.post("/files", files={"file": ("cats.jsonl", content.encode())}).json()
    return Batch(api, input_file_id=file["id"])
