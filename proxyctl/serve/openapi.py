"""The API's endpoints -> an OpenAPI 3.1 description, its schemas made of the very types that are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from proxyctl import __version__
from proxyctl.serve import views, wishes
from proxyctl.serve.explain import Explanation
from proxyctl.serve.history import KEEP, Cycles


class Problem(msgspec.Struct):
    """Any answer from 400 on."""

    schema: int
    error: str


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
    "/api/v1/rollouts": {"name": "service", "schema": {"type": "string"}, "example": "shop"},
    "/api/v1/explain": {"name": "url", "required": True, "schema": {"type": "string"}, "example": "a.example/git"},
}


WISHES: Final[Mapping[str, type]] = {
    "/api/v1/rollout": wishes.RolloutWish,
    "/api/v1/freeze": wishes.FreezeWish,
    "/api/v1/unfreeze": wishes.FreezeWish,
    "/api/v1/release": wishes.ReleaseWish,
    "/api/v1/host/drain": wishes.DrainWish,
    "/api/v1/host/undrain": wishes.NoWish,
}
"""Bodies of changes."""


def description(endpoints: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, Any]:
    """Path -> what it answers, or what it changes, in words."""
    kinds: list[type] = [*JSON.values(), Problem, wishes.Change, *dict.fromkeys(WISHES.values())]
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
        responses = {"200": _answer("what will happen", "application/json", known[wishes.Change]), "4XX": problem, "503": problem}
        body = {"content": {"application/json": {"schema": known[WISHES[path]]}}}
        paths[path] = {"post": {"summary": words, "requestBody": body, "responses": responses}}
    info = {"title": "proxyctl", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


def _answer(words: str, media: str, schema: object) -> dict[str, Any]:
    return {"description": words, "content": {media: {} if schema is None else {"schema": schema}}}


def _parameters(path: str) -> list[dict[str, Any]]:
    return [{"in": "query", **QUERY[path]}] if path in QUERY else []
