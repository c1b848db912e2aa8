"""A compose file -> the containers that it would make, as far as the file says, and what could not be told from it.

Nothing is run and nothing is substituted: a label with a variable in it is checked with a value that fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import yaml

from proxyctl.model import Container, Endpoint, NginxView, Rejection, Snapshot
from proxyctl.plan import labels, planner, routes
from proxyctl.plan.ownership import ClaimRule

T = TypeVar("T")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::?([-+?])([^}]*))?\}|\$([A-Za-z_][A-Za-z0-9_]*)")
_FITTING = ("x", "1", "/x", "true", "1s", "200", "http", "tcp")
"""Stand for a variable: the first that the label's grammar takes."""
NETWORK = NginxView((1, 31, 3), {}, host_network=False, ipv6=False, conf_dir="/c", runtime_dir="/r", logs_dir="/l")


class NotCompose(Exception):  # noqa: N818
    """The file is not one that `docker compose` takes; says where and why."""


@dataclass
class Verdict:
    rejections: tuple[Rejection, ...]
    notes: list[str] = field(default_factory=list)
    """What is not known from the file alone."""
    services: int = 0
    """Services with labels of ours."""


class _Loader(yaml.SafeLoader):
    """Text stays text, as in compose: no `on` that becomes True and no `22:22` that becomes 1342."""


_Loader.yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"))]}


def _plain(loader: yaml.Loader, suffix: str, node: yaml.Node) -> object:  # noqa: ARG001 - PyYAML's signature
    """`!reset` and `!override` are compose's own."""
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_Loader.add_multi_constructor("!", _plain)


def check(
    text: str, source: str, project: str, defaults: labels.Defaults, claims: tuple[ClaimRule, ...], own_ports: frozenset[int]
) -> Verdict:
    """Raises NotCompose. `project` counts unless the file has a name of its own."""
    document = _document(text, source)
    verdict = Verdict(())
    if isinstance(document.get("name"), str):
        project = _VARIABLE.sub("x", document["name"])
    containers: dict[str, Container] = {}
    for name, service in _mapping(document.get("services"), "services", source).items():
        body = _mapping(service, f"services.{name}", source)
        reader = _Reader(verdict, f"{project}-{name}-1", project, str(name), body, source)
        container = reader.container(document, defaults, len(containers))
        containers[container.id] = container
        verdict.services += any(key.startswith(f"{defaults.prefix}.") for key in container.labels)
    verdict.rejections = _plan(containers, defaults, claims, own_ports)
    if not containers:
        raise NotCompose(f"{source}: there are no services in it")
    if "include" in document:
        verdict.notes.append("`include` is not followed: check those files, too")
    return verdict


def _document(text: str, source: str) -> Mapping[str, Any]:
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise NotCompose(f"{source}{where}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise NotCompose(f"{source}: not YAML: {error}") from error
    return _mapping(document, "the file", source)


def _mapping(value: object, what: str, source: str) -> Mapping[str, Any]:
    if value in (None, ""):
        return {}
    if not isinstance(value, dict):
        raise NotCompose(f"{source}: {what} is no mapping: write KEY: VALUE lines")
    return value


def _plan(
    containers: Mapping[str, Container], defaults: labels.Defaults, claims: tuple[ClaimRule, ...], own_ports: frozenset[int]
) -> tuple[Rejection, ...]:
    """The same decision as for living containers, so that services which take each other's hosts are found, too."""
    return planner.plan(
        routes.Inputs(
            snapshot=Snapshot(containers),
            standing={},
            owners={},
            nginx=replace(NETWORK, networks={e.network: "192.0.2.1" for c in containers.values() for e in c.endpoints}),
            defaults=defaults,
            join=True,
            unjoinable={},
            published=frozenset(),
            now_unix=0.0,
            claims=claims,
            own_ports=own_ports,
            shares={},
            maintenance=frozenset(),
        )
    ).rejections


class _Reader:
    """Reads one service."""

    def __init__(self, verdict: Verdict, made_up: str, project: str, name: str, body: Mapping[str, Any], source: str) -> None:
        self._verdict = verdict
        self._project = project
        self._name = name
        self._body = body
        self._source = source
        self._container = str(body.get("container_name") or made_up)

    def container(self, document: Mapping[str, Any], defaults: labels.Defaults, index: int) -> Container:
        if "extends" in self._body:
            self._note("`extends` is not followed: only what is written here is checked")
        found = self._labels(defaults.prefix)
        identity = {"com.docker.compose.project": self._project, "com.docker.compose.service": self._name}
        container = Container(
            id=f"{index:064x}",
            name=self._container,
            image=str(self._body.get("image", "")),
            created_unix=float(index),
            state="running",
            health="none",
            labels=found | identity,
            endpoints=self._endpoints(document),
            network_mode=self._network_mode(),
            exposed=self._exposed(),
            published=(),
            has_healthcheck=self._has_healthcheck(found, defaults.prefix),
        )
        return self._with_port(container, defaults)

    def _note(self, text: str) -> None:
        self._verdict.notes.append(f"{self._name}: {text}")

    def _labels(self, prefix: str) -> dict[str, str]:
        raw = self._body.get("labels") or {}
        if isinstance(raw, list):
            pairs = {str(item).partition("=")[0]: str(item).partition("=")[2] for item in raw}
        else:
            pairs = {str(k): str(v) for k, v in _mapping(raw, f"services.{self._name}.labels", self._source).items()}
        deploy = self._body.get("deploy")
        if isinstance(deploy, dict) and prefix in str(deploy.get("labels", "")):
            self._note("labels below `deploy` are the swarm service's, not the container's: move them to `labels`")
        return {key: self._substituted(key, text, prefix) for key, text in pairs.items()}

    def _substituted(self, key: str, text: str, prefix: str) -> str:
        bare = text.replace("$$", "\0")
        if key.startswith(f"{prefix}.") and _VARIABLE.search(bare):
            bare = self._fitting(key.removeprefix(f"{prefix}."), bare)
            self._note(f"{key}={text} has a variable: checked as {bare}")
        return bare.replace("\0", "$")

    @staticmethod
    def _fitting(key: str, text: str) -> str:
        short = re.sub(r"^routes\.[^.]+\.", "", key)
        parser = {**labels.ROUTE_KEYS, **labels.TARGET_KEYS, **labels.CONTAINER_KEYS}.get(short)
        tried = [_VARIABLE.sub(_default(word), text) for word in _FITTING]
        return next((value for value in tried if parser and _takes(parser, value)), tried[0])

    def _endpoints(self, document: Mapping[str, Any]) -> tuple[Endpoint, ...]:
        declared = _mapping(document.get("networks"), "networks", self._source)
        own = self._body.get("networks") or ["default"]
        return tuple(Endpoint(self._network(str(n), declared.get(str(n))), "", f"{n}", "192.0.2.2", "", "192.0.2.1") for n in own)

    def _network(self, name: str, declared: object) -> str:
        if isinstance(declared, dict) and declared.get("name"):
            return str(declared["name"])
        external = isinstance(declared, dict) and declared.get("external") == "true"
        return name if external else f"{self._project}_{name}"

    def _network_mode(self) -> str:
        mode = str(self._body.get("network_mode") or "bridge")
        kind, _, name = mode.partition(":")
        return f"container:{self._project}-{name}-1" if kind == "service" else mode

    def _exposed(self) -> tuple[int, ...]:
        """Container ports of `expose` and `ports`; TCP only."""
        found: set[int] = set()
        for item in [*(self._body.get("expose") or []), *(self._body.get("ports") or [])]:
            if isinstance(item, dict):
                text, protocol = str(item.get("target", "")), str(item.get("protocol", "tcp"))
            else:
                text, _, protocol = str(item).rpartition(":")[2].partition("/")
            if text.isdigit() and protocol in ("", "tcp"):
                found.add(int(text))
        return tuple(sorted(found))

    def _has_healthcheck(self, found: Mapping[str, str], prefix: str) -> bool:
        own = self._body.get("healthcheck")
        if isinstance(own, dict):
            return own.get("disable") != "true" and own.get("test") not in ("NONE", ["NONE"])
        asked = any(
            key.startswith(f"{prefix}.") and key.endswith("health.type") and text == "docker" for key, text in found.items()
        )
        if asked:
            self._note("the HEALTHCHECK is the image's: not checked")
        return asked

    def _with_port(self, container: Container, defaults: labels.Defaults) -> Container:
        """Without `expose` and `ports` the image's EXPOSE decides, which the file does not tell."""
        if container.exposed:
            return container
        if any(r.reason == "no-port" for r in labels.parse(container, defaults).rejections):
            self._note(f"port not checked: the image's EXPOSE decides, or {defaults.prefix}.port")
        return replace(container, exposed=(80,))


def _default(word: str) -> Callable[[re.Match[str]], str]:
    """`${X:-a}` is `a` when nobody sets X; any other variable is the word."""
    return lambda match: match[3] if match[2] == "-" and match[3] else word


def _takes(parser: Callable[[str], T], text: str) -> bool:
    try:
        parser(text)
    except ValueError:
        return False
    return True
