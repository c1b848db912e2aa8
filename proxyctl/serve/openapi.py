"""The API's endpoints -> an OpenAPI 3.1 description, its schemas made of the very types that are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from proxyctl import __version__
from proxyctl.serve import views
from proxyctl.serve.explain import Explanation
from proxyctl.serve.history import KEEP, Cycles
from proxyctl.values import MAX_NAME
from proxyctl.versions import Verb

MAX_WHY = 500
"""Characters of a reason."""


class Problem(msgspec.Struct):
    """Any answer from 400 on."""

    schema: int
    error: str


class Said(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator says about the versions of a service."""

    service: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
    verb: Verb
    value: Annotated[int, msgspec.Meta(ge=0, le=99)] = 0
    """Of `weight`: percent for the new version; of `maintenance`: 1 is on."""
    who: Annotated[str, msgspec.Meta(max_length=MAX_NAME)] = ""
    why: Annotated[str, msgspec.Meta(max_length=MAX_WHY)] = ""


class Freeze(msgspec.Struct, forbid_unknown_fields=True):
    on: bool
    who: Annotated[str, msgspec.Meta(max_length=MAX_NAME)] = ""
    why: Annotated[str, msgspec.Meta(max_length=MAX_WHY)] = ""


BODIES: Final[Mapping[str, type]] = {"/api/v1/rollout": Said, "/api/v1/freeze": Freeze}
JSON: Final[Mapping[str, type]] = {
    "/api/v1/status": views.Status,
    "/api/v1/services": views.Services,
    "/api/v1/targets": views.Targets,
    "/api/v1/rejections": views.Rejections,
    "/api/v1/cycles": Cycles,
    "/api/v1/rollouts": views.Rollouts,
    "/api/v1/explain": Explanation,
}
OTHER: Final = {"/": "text/html", "/metrics": "text/plain", "/api/v1/events": "text/event-stream"}
"""Media types of what is neither JSON nor plain text."""
QUERY: Final[Mapping[str, Mapping[str, Any]]] = {
    "/api/v1/cycles": {"name": "limit", "schema": {"type": "integer", "minimum": 1, "maximum": KEEP, "default": 50}},
    "/api/v1/explain": {"name": "url", "required": True, "schema": {"type": "string"}, "example": "a.example/git"},
}


def description(endpoints: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, Any]:
    """`endpoints`: path -> what it answers, in words; `changes`: path -> what a POST does."""
    kinds: list[type] = [*JSON.values(), *BODIES.values(), views.Done, Problem]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    known = dict(zip(kinds, schemas, strict=True))
    problem = _answer("what is wrong, in words", "application/json", known[Problem])
    paths = {}
    for path, words in endpoints.items():
        schema = known[JSON[path]] if path in JSON else None
        media = OTHER.get(path, "application/json" if path.startswith("/api/") else "text/plain")
        responses = {"200": _answer("the answer", media, schema), "4XX": problem, "503": problem}
        if path == "/api/v1/explain":
            responses["404"] = _answer("nobody serves it", media, schema)
        if not path.startswith("/api/"):
            responses["5XX"] = responses["503"] = _answer("why not", "text/plain", None)
        paths[path] = {"get": {"summary": words, "parameters": _parameters(path), "responses": responses}}
    for path, words in changes.items():
        body = {"required": True, "content": {"application/json": {"schema": known[BODIES[path]]}}}
        done = _answer("what was done, and what comes next", "application/json", known[views.Done])
        responses = {
            "200": done,
            "409": problem | {"description": "why that is not possible now"},
            "4XX": problem,
            "503": problem,
        }
        paths[path] = {"post": {"summary": words, "requestBody": body, "responses": responses}}
    info = {"title": "proxyctl", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


def _answer(words: str, media: str, schema: object) -> dict[str, Any]:
    return {"description": words, "content": {media: {} if schema is None else {"schema": schema}}}


def _parameters(path: str) -> list[dict[str, Any]]:
    return [{"in": "query", **QUERY[path]}] if path in QUERY else []
