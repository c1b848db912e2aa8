"""The documentation against the code, in both directions: what is there is documented, and what is documented is there."""

from __future__ import annotations

import re
import shlex
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from proxyctl import cli, config, values
from proxyctl.cli import BROKEN_PIPE, compose, options
from proxyctl.model import Exit, RejectionReason, RouteTable, TargetState
from proxyctl.observe import probes
from proxyctl.plan import client_headers, labels, vhosts
from proxyctl.report import CycleReport, CycleResult, Incident, IncidentKind
from proxyctl.serve import api, page, views
from proxyctl.serve.metrics import METRICS, STAGES, ExitReason, Metrics
from proxyctl.serve.standing import Place, Runs, Standing
from proxyctl.versions import TRANSITIONS, FailureReason, Order, Rollout, Strategy, Told, Verb
from tests.unit.make import REPOSITORY, container, defaults, site

PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md"))))
EVERYTHING = (*PAGES, "compose.yaml", "config.example.toml", "LICENSE")
MISSPELT = {"tls", "prot"}
"""Labels that pages show to be refused."""
CALLS = {
    "version": ("GET /version",),
    "events": ("GET /events",),
    "get": ("GET /containers/json",),
    "containers": (),  # the same request
    "inspect_container": ("GET /containers/{id}/json",),
    "top": ("GET /containers/{id}/top",),
    "logs": ("GET /containers/{id}/logs",),
    "inspect_image": ("GET /images/{name}/json",),
    "exec_create": ("POST /containers/{id}/exec",),
    "exec_start": ("POST /exec/{id}/start",),
    "exec_inspect": ("GET /exec/{id}/json",),
    "kill": ("POST /containers/{id}/kill",),
    "start": ("POST /containers/{id}/start",),
    "stop": ("POST /containers/{id}/stop",),
    "inspect_network": ("GET /networks/{id}",),
    "connect_container_to_network": ("POST /networks/{id}/connect",),
    "disconnect_container_from_network": ("POST /networks/{id}/disconnect",),
    "pull": ("POST /images/create",),
    "create_container_from_config": ("POST /containers/create",),
    "create_network": ("POST /networks/create",),
}
"""What the SDK asks of the engine, by the method that asks."""


# ---------------------------------------------------------------- reading pages


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """The text below a heading, to the next one of its level."""
    match = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^\1 |\Z)", read(name), re.MULTILINE | re.DOTALL)
    assert match, f"{name} has no heading {heading}"
    return match[2]


def tables(text: str) -> list[list[list[str]]]:
    """Cells by row by table, without heads."""
    groups = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|\n").split("|")] for row in group.splitlines()[2:]] for group in groups]


def rows(name: str, heading: str) -> list[list[str]]:
    return [row for table in tables(section(name, heading)) for row in table]


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def code(cell: str) -> str:
    """The only code in a cell; empty when there is none."""
    return cell.strip("`") if codes(cell) else ""


def firsts(table: list[list[str]]) -> list[str]:
    return [name for row in table for name in codes(row[0])]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def said(text: str, command: str) -> str:
    """What a console block shows after a command."""
    (found,) = [block for block in blocks(text, "console") if block.startswith(f"$ {command}\n")]
    return found.partition("\n")[2]


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("heading", "keys"),
    [("Route", labels.ROUTE_KEYS), ("Target", labels.TARGET_KEYS), ("Container", labels.CONTAINER_KEYS)],
)
def test_every_label_is_documented_where_it_belongs_and_its_example_is_taken(heading: str, keys: Mapping[str, Any]) -> None:
    table = tables(section("docs/labels.md", heading))[0]
    assert sorted(firsts(table)) == sorted(keys)
    for row in table:
        name, _, value = code(row[3]).partition("=")
        assert name == f"proxyctl.{code(row[0])}"
        keys[code(row[0])](value)


def test_defaults_of_labels_are_those_of_the_code() -> None:
    spec = labels.parse(container("web", {"host": "a.example"}), defaults()).spec
    assert spec
    bare = msgspec.to_builtins(spec.routes[0])
    flat = bare | {f"health.{key}": value for key, value in bare["health"].items()} | {"strip-path": bare["strip_path"]}
    documented = {code(row[0]): code(row[1]) for heading in ("Route", "Target") for row in rows("docs/labels.md", heading)}
    parsers = {**labels.ROUTE_KEYS, **labels.TARGET_KEYS}
    checked = {key: msgspec.to_builtins(parsers[key](text)) for key, text in documented.items() if text and " " not in text}
    assert checked == {key: flat[key] for key in checked}
    assert len(checked) == 6, "defaults that are written as code"
    for key in ("interval", "timeout", "rise", "fall"):
        (row,) = [row for row in rows("docs/labels.md", "Target") if code(row[0]) == f"health.{key}"]
        assert labels.TARGET_KEYS[f"health.{key}"](row[1].rpartition(": ")[2]) == getattr(config.Health(), key)


def test_limits_of_labels_are_those_of_the_code() -> None:
    assert f"{labels.MAX_HOSTS} at the most" in section("docs/labels.md", "Route")
    assert f"{labels.MAX_ROUTES} routes at the most" in section("docs/labels.md", "More than one route")
    assert [int(row[1]) for row in rows("docs/labels.md", "Limits")] == [
        *(labels.MAX_LABELS, labels.MAX_VALUE, labels.MAX_ROUTES, labels.MAX_HOSTS, labels.MAX_PLACES),
        *(values.MAX_HOST, values.MAX_HOST_LABEL, values.MAX_PATH, values.MAX_REQUEST_TARGET, values.MAX_NAME),
        *(values.MAX_RANGES, labels.MAX_MISTAKES),
    ]


def test_how_many_checks_end_gently_is_told() -> None:
    assert f"{probes.GENTLE:,} of them in ten seconds" in section("docs/labels.md", "Target")
    assert probes.GENTLE_WITHIN == 10.0


def test_rejections_are_worded_as_documented() -> None:
    shown = tables(section("docs/labels.md", "Rejections"))[0]
    assert len(shown) > 5
    for written, reason, message, hint in shown:
        pairs = dict(label.removeprefix("proxyctl.").split("=", 1) for label in codes(written))
        exposed = (3000, 9000) if code(reason) == "no-port" else (80,)
        (told,) = labels.parse(container("web", pairs, exposed=exposed), defaults()).rejections
        assert (told.reason, f"{told.label}: {told.message}", told.hint) == (code(reason), message, hint)


def test_every_reason_of_a_rejection_is_documented() -> None:
    shown, others = tables(section("docs/labels.md", "Rejections"))
    assert {code(row[1]) for row in shown} | set(firsts(others)) == set(get_args(RejectionReason))
    assert not {code(row[1]) for row in shown} & set(firsts(others))


@pytest.mark.parametrize("name", PAGES)
def test_every_label_that_a_page_names_exists(name: str) -> None:
    marks_nginx = {"nginx"}
    known = {*labels.ROUTE_KEYS, *labels.TARGET_KEYS, *labels.CONTAINER_KEYS} | MISSPELT | marks_nginx
    named = re.findall(r"(?<![\w/.-])proxyctl\.([a-z][A-Za-z.-]*?)(?=[=`:,?]|\s|$)", read(name))
    assert {re.sub(r"^routes\.[A-Za-z-]+\.", "", key) for key in named} - {""} <= known


def test_the_compose_file_of_named_routes_is_taken() -> None:
    (text,) = blocks(section("docs/labels.md", "More than one route"), "yaml")
    verdict = compose.check(text, "compose.yaml", "git", defaults(), (), frozenset())
    assert (verdict.rejections, verdict.services) == ((), 1)


# ---------------------------------------------------------------- configuration


def config_keys() -> dict[str, Any]:
    """Every dotted key with its default; None for one that has none."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(config.Config):
        kind = config.Claim if field.name == "claims" else field.type
        for key in msgspec.structs.fields(kind):
            found[f"{field.name}.{key.name}"] = None if key.default is msgspec.NODEFAULT else key.default
    return found


def loaded(text: str, folder: Path) -> config.Config:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, {})


def test_every_key_is_in_the_reference_with_its_default(tmp_path: Path) -> None:
    sections = [field.name for field in msgspec.structs.fields(config.Config)]
    table = {code(row[0]): code(row[1]) for name in sections for row in rows("docs/configuration.md", name)}
    assert table.keys() == config_keys().keys()
    for full, written in table.items():
        where, _, key = full.partition(".")
        if where == "claims":
            expected = () if written == "[]" else None
            assert config_keys()[full] == expected, full
        else:
            value = getattr(getattr(loaded(f"[{where}]\n{key} = {written}\n", tmp_path), where), key)
            assert (value, config_keys()[full]) == (config_keys()[full], value), full


def test_the_example_file_has_every_key_with_its_default_and_a_word_on_each(tmp_path: Path) -> None:
    text = read("config.example.toml")
    plain = loaded(text, tmp_path)
    whole = re.sub(r"^#(?=[a-z_]+ = |\[\[)", "", text, flags=re.MULTILINE)
    data = tomllib.loads(whole)
    (rule,) = data.pop("claims")
    written = {f"{name}.{key}" for name, body in {**data, "claims": rule}.items() for key in body}
    assert written == config_keys().keys()
    (loaded_rule,) = loaded(whole, tmp_path).claims
    assert msgspec.structs.replace(loaded(whole, tmp_path), claims=()) == plain == config.Config()
    assert msgspec.structs.replace(loaded_rule, hosts=()) == config.Claim(hosts=())
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"#[a-z_]+ = ", line):
            assert lines[number - 1].startswith("# "), f"{line} has no line that explains it"


def test_configuration_that_pages_show_is_taken(tmp_path: Path) -> None:
    shown = [block for name in PAGES for block in blocks(read(name), "toml")]
    assert len(shown) >= 3
    for block in shown:
        loaded(block, tmp_path)


def test_a_misspelt_key_is_answered_as_documented(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as caught:
        loaded('[nginx]\nimgae = "x"\n', tmp_path)
    told = said(read("docs/configuration.md"), "proxyctl check")
    assert told == f"proxyctl: {caught.value}\n".replace(str(tmp_path / "config.toml"), "/etc/proxyctl/config.toml")


@pytest.mark.parametrize("name", PAGES)
def test_every_variable_that_a_page_names_exists(name: str) -> None:
    own = {param.envvar for param in options.GLOBAL()}
    for variable in re.findall(r"\bPROXYCTL_\w+[A-Z]", read(name)):
        key = variable.removeprefix(config.ENV_PREFIX).lower().replace("__", ".")
        assert variable in own or key in config_keys(), variable


def test_variables_of_the_command_line_are_documented() -> None:
    named = {name for name in firsts(tables(section("docs/configuration.md", "Environment"))[0]) if name.startswith("PROXYCTL")}
    assert named == {param.envvar for param in options.GLOBAL()}


def test_every_template_is_documented() -> None:
    assert sorted(firsts(rows("docs/configuration.md", "Templates of your own"))) == sorted([*vhosts.TEMPLATES, page.TEMPLATE])


# ---------------------------------------------------------------- commands


def commands() -> Mapping[str, click.Command]:
    context = click.Context(cli.group)
    found = {name: cli.group.get_command(context, name) for name in cli.group.list_commands(context)}
    return {name: command for name, command in found.items() if command}


def test_every_command_is_documented() -> None:
    headings = re.findall(r"^## proxyctl (\S+)$", read("docs/commands.md"), re.MULTILINE)
    assert sorted(headings) == sorted(commands())


@pytest.mark.parametrize("name", commands())
def test_every_option_of_a_command_is_documented_and_no_other(name: str) -> None:
    command = commands()[name]
    parts = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    own = {text for part in parts for param in part.params if isinstance(param, click.Option) for text in param.opts}
    usable = own | {text for param in options.GLOBAL() for text in param.opts}
    prose = re.sub(r"^```.*?^```", "", section("docs/commands.md", f"proxyctl {name}"), flags=re.MULTILINE | re.DOTALL)
    named = {word for text in codes(prose) for word in text.split() if re.fullmatch(r"--?[a-z][a-z-]*", word)}
    assert own <= named <= usable


def test_options_of_every_command_are_documented() -> None:
    named = {text.split()[0] for text in firsts(tables(read("docs/commands.md").partition("\n## ")[0])[0])}
    assert named == {text for param in options.GLOBAL() for text in param.opts} | {"--help", "-h"}


def test_exit_statuses_are_those_of_the_code() -> None:
    named = [int(row[0]) for row in tables(read("docs/commands.md").partition("\n## ")[0])[1]]
    of_options = [options.DONE, options.NEGATIVE, options.USAGE, options.UNREACHABLE, options.TIMED_OUT]
    assert named == [*of_options, 130, BROKEN_PIPE]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    cli.call(list(arguments))
    return capsys.readouterr().out


def test_the_help_and_the_version_are_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = read("docs/commands.md")
    assert said(text, "proxyctl --help") == run(capsys, "--help")
    assert said(text, "proxyctl version") == run(capsys, "version")


def test_checking_a_compose_file_answers_as_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = section("docs/commands.md", "proxyctl check")
    (tmp_path / "compose.yaml").write_text(blocks(text, "yaml")[0], encoding="utf-8")
    (tmp_path / "config.toml").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert said(text, "proxyctl check compose.yaml") == run(capsys, "--config", "config.toml", "check", "compose.yaml")


def test_states_and_results_are_those_of_the_code() -> None:
    route_states, target_states = tables(section("docs/commands.md", "proxyctl status"))
    assert sorted(firsts(route_states)) == sorted(get_args(views.RouteState))
    assert sorted(firsts(target_states)) == sorted(get_args(TargetState))
    results, incidents = tables(section("docs/commands.md", "proxyctl history"))
    assert sorted(firsts(results)) == sorted(get_args(CycleResult))
    assert sorted(firsts(incidents)) == sorted(get_args(IncidentKind))


# ---------------------------------------------------------------- metrics and the API


def standing() -> Standing:
    """One site and no nginx."""
    order = Order(1.0, "kim", "a sale")
    closed = Rollout(active="v1", maintenance=True, maintained=order)
    told = Told("web", closed, (), {"v1": 100}, "v1 is live")
    place = Place("1", "", "proxyctl", 30, 0)
    return Standing(
        place,
        True,
        None,
        "",
        True,
        0,
        "",
        True,
        site(),
        RouteTable(),
        rollouts=(told,),
        nginx_up=True,
        runs=Runs(1, 9.0),
        frozen=True,
        freezing=order,
    )


def exposed_metrics() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of each metric of our own, as a scrape shows them."""
    metrics = Metrics(standing)
    metrics.event("start")
    metrics.incident(Incident("target-exited", 0, "web-1", "", "web", Exit(1)))
    metrics(
        CycleReport(
            1,
            time.time(),
            (),
            "live",
            "d",
            (),
            "",
            (),
            {"read": 0.1},
            0.1,
            1,
            rolled_back=(("web", "died"),),
            drains_cut=("web",),
        )
    )
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(metrics.text("", [], (1, 2))[0].decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        names = {label for sample in family.samples for label in sample.labels}
        if name.startswith("proxyctl_"):
            found[name] = (family.type, names - {"le"})
    return found


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    table = tables(read("docs/metrics.md"))[0]
    documented = {code(row[0]): (row[1], set(codes(row[2]))) for row in table}
    assert documented.keys() == METRICS.keys()
    assert documented == exposed_metrics()


def test_stages_and_states_of_metrics_are_those_of_the_code() -> None:
    meaning = {code(row[0]): row[3] for row in tables(read("docs/metrics.md"))[0]}
    assert set(codes(meaning["proxyctl_cycle_duration_seconds"])) == STAGES
    assert set(codes(meaning["proxyctl_targets"])) == set(get_args(TargetState))
    assert set(codes(meaning["proxyctl_service_state"])) - {"other"} == set(get_args(views.RouteState))
    assert set(codes(meaning["proxyctl_target_exits_total"])) == set(get_args(ExitReason))


def test_alerts_are_those_of_the_rules_file() -> None:
    table = tables(section("docs/metrics.md", "Alerts"))[0]
    groups = yaml.safe_load(read("examples/prometheus/alerts.yml"))["groups"]
    shipped = [(rule["alert"], rule["labels"]["severity"]) for group in groups for rule in group["rules"]]
    assert [(code(row[0]), row[1]) for row in table] == shipped
    (scrape,) = blocks(section("docs/metrics.md", "Scraping"), "yaml")
    assert [job["job_name"] for job in yaml.safe_load(scrape)["scrape_configs"]] == ["proxyctl"]


@pytest.mark.parametrize("name", PAGES)
def test_every_metric_that_a_page_names_exists(name: str) -> None:
    named = {text for text in re.findall(r"(?<![$\w])proxyctl_[a-z_]+\b", read(name)) if not re.fullmatch(r".*_[0-9a-f]+", text)}
    assert named <= METRICS.keys()


def test_every_endpoint_is_documented() -> None:
    assert firsts(tables(read("docs/http-api.md"))[0]) == list(api.ENDPOINTS)
    assert firsts(tables(section("docs/http-api.md", "Changes"))[0]) == list(api.CHANGES)


def test_phases_words_and_reasons_of_versions_are_those_of_the_code() -> None:
    assert firsts(rows("docs/rollouts.md", "The machine")) == list(TRANSITIONS)
    assert firsts(rows("docs/rollouts.md", "How traffic moves")) == list(get_args(Strategy))
    assert sorted(firsts(rows("docs/rollouts.md", "When a version is bad"))) == sorted(get_args(FailureReason))
    assert firsts(rows("docs/commands.md", "proxyctl rollout")) == [verb for verb in get_args(Verb) if verb != "maintenance"]


@pytest.mark.parametrize("name", PAGES)
def test_every_endpoint_that_a_page_names_exists(name: str) -> None:
    assert set(re.findall(r"/api/v1/[\w/]*\w", read(name))) <= api.ENDPOINTS.keys() | api.CHANGES.keys()


def test_every_call_to_the_engine_is_told() -> None:
    source = read("proxyctl/observe/docker_host.py")
    called = set(re.findall(r"(?:\bc|client|_patient\(\)|\"Any\", c\))\.([a-z_]+)\(", source)) - {"close", "api_version"}
    assert called == CALLS.keys()
    table = tables(section("docs/security.md", "What the Docker socket gives away"))[0]
    assert sorted(firsts(table)) == sorted(call for calls in CALLS.values() for call in calls)


# ---------------------------------------------------------------- README, compose.yaml, links


def test_the_readme_shows_compose_yaml_as_it_is() -> None:
    assert blocks(read("README.md"), "yaml") == [read("compose.yaml")]


def test_the_one_line_says_what_compose_yaml_says() -> None:
    service = yaml.safe_load(read("compose.yaml"))["services"]["proxyctl"]
    (line,) = [text for text in blocks(read("README.md"), "sh") if "docker run" in text]
    words = shlex.split(line)
    flags = {
        "--name": [service["container_name"]],
        "--network": [service["network_mode"]],
        "--restart": [service["restart"]],
        "--user": [service["user"]],
        "--cap-drop": service["cap_drop"],
        "--cap-add": service["cap_add"],
        "--pid": [service["pid"]],
        "--security-opt": service["security_opt"],
        "-v": service["volumes"],
    }
    expected = [word for flag, values in flags.items() for value in values for word in (flag, value)]
    plain = ["docker", "run", "-d", *(["--read-only"] if service["read_only"] else [])]
    assert sorted(words) == sorted([*plain, *expected, service["image"]])
    assert words[-1] == service["image"]


def test_compose_yaml_mounts_what_the_defaults_name() -> None:
    service = yaml.safe_load(read("compose.yaml"))["services"]["proxyctl"]
    inside = [Path(volume.split(":")[1]) for volume in service["volumes"]]
    standard = config.Config()
    for path in (standard.state_dir, standard.runtime_dir, Path(standard.api.socket), config.DEFAULT_FILE):
        assert any(mount in (path, *path.parents) for mount in inside), path


def test_labels_of_the_readme_exist_and_no_group_is_missing() -> None:
    named = [name.removeprefix("proxyctl.") for name in firsts(rows("README.md", "Labels"))]
    short = {name.removeprefix("routes.NAME.") for name in named}
    known = {*labels.ROUTE_KEYS, *labels.TARGET_KEYS, *labels.CONTAINER_KEYS}
    assert short <= known
    assert {key for key in known if not key.startswith("health.")} <= short


def test_every_page_is_reached_from_the_readme() -> None:
    assert {f"docs/{name}" for name in re.findall(r"\(docs/([\w-]+\.md)", read("README.md"))} == set(PAGES) - {"README.md"}


def slugs(name: str) -> set[str]:
    """Anchors that a page has, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", read(name), flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[str, str]]:
    for name in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", read(name)):
            yield name, link


@pytest.mark.parametrize(("name", "link"), [(name, link) for name, link in links() if "://" not in link])
def test_every_link_leads_somewhere(name: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (REPOSITORY / name).parent / path if path else REPOSITORY / name
    assert target.is_file()
    if anchor:
        assert anchor in slugs(str(target.resolve().relative_to(REPOSITORY)))


@pytest.mark.parametrize("name", PAGES)
def test_every_make_target_that_a_page_names_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", read(name), re.MULTILINE)) <= targets


def test_the_readme_begins_with_the_two_commands() -> None:
    assert re.findall(r"^make ([a-z]+)", "\n".join(read("README.md").splitlines()[:20]), re.MULTILINE) == ["demo", "test"]


@pytest.mark.parametrize("name", EVERYTHING)
def test_nothing_says_what_must_not_be_said(name: str) -> None:
    text = read(name)
    assert not re.search(r"pip install proxyctl(?!-nginx)", text), "that name belongs to others"
    assert not re.search(r"/work/|pypi\.org|docker\.io(?!/v)|ghcr\.io|quay\.io|hub\.docker", text)
    assert max(map(len, text.splitlines())) < 700


def test_every_header_that_a_client_cannot_send_is_documented() -> None:
    page = re.sub(r"\s+", " ", section("docs/security.md", "What targets are told"))
    listed = {name for item in page.split(" - ")[1:] for name in re.findall(r"`([A-Za-z0-9-]+)`[,.;]?", item.split(" With ")[0])}
    assert listed == set(client_headers.CLIENT_SAYS)
    assert all(f"`{name}`" in page for name in (*client_headers.REPLACED, *client_headers.REMOVED))
