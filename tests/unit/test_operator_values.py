"""What the operator writes reaches nginx, too: it is typed when it is loaded, and what is taken does what the model says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from proxyctl import config as configuration
from proxyctl.app import claim_rules, label_defaults
from proxyctl.config import Config, ConfigError
from tests.unit import make, nginx_tree
from tests.unit.hostile import ATTACKS
from tests.unit.make import container, decide
from tests.unit.predicted import Expected, in_order
from tests.unit.test_nginx_accepts import refusal

PROXIES = {
    "a way out": "10.0.0.0/8; include /etc/passwd",
    "a line break": "10.0.0.0/8\n",
    "a zone": "fe80::1%eth0",
    "a zone of more": "fe80::1%;}",
    "another script": "10.0.0.0/\u0668",
    "a socket": "unix:",
    "everybody": "0.0.0.0/0",
    "everybody of IPv6": "::/0",
    "mapped": "::ffff:10.0.0.1",
    "one": "192.0.2.1",
    "upper case": "FD00::/8",
    "two zeros": "10.0.0.0/08",
}
HOSTS = [text + "{service}" for text in ("", "a.", "*.", "x" * 63 + ".", "A.", ".", "-", "a.example;")]
HOSTS += ["{service}" + text for text in (".home.example", ".", "..", "\n", "}", "{service}", ".1", "-", "_", "x" * 200, " #")]


def loaded(directory: Path, section: str, key: str, value: object) -> Config | None:
    """None when it is refused, in one line that names the key."""
    file = directory / "config.toml"
    try:
        file.write_text(f"{section}\n{key} = {json.dumps(value, ensure_ascii=False)}\n", encoding="utf-8")
    except UnicodeEncodeError:
        return None
    try:
        return configuration.load(file, {})
    except ConfigError as error:
        said = str(error)
        assert key in said or "not TOML" in said
        assert said.isprintable()
        return None


def assert_as_predicted(config: Config, directory: Path) -> None:
    """Some containers without hosts of their own, with names that are hosts, names that nearly are, and names that are not."""
    names = ("web", "Web-1", "a.b", "a..b", "x" * 63, "x" * 64, "a_b", "1", "-", "a b", "web;", "starting.proxyctl.invalid")
    crowd = [container(name, {"port": "80"}, created=float(n)) for n, name in enumerate(names)]
    crowd.append(container("host", {"host": "a.example"}))
    table = decide(crowd, said=label_defaults(config), claims=claim_rules(config)).table
    assert all(re.fullmatch(r"(\*\.)?[a-z0-9_.-]+", vhost.host) for vhost in table.vhosts)
    view = nginx_tree.view(directory)
    how = make.settings(trusted_proxies=config.nginx.trusted_proxies, wait_after_boot=False)
    fileset = make.render(table, view, how)
    read = nginx_tree.parse(nginx_tree.write(fileset, directory), comments=True)
    assert in_order(read) == in_order(Expected(view, how).configuration(table, fileset.digest))
    if config.discovery.default_host or config.nginx.trusted_proxies:
        assert refusal(table, directory, how=how) == ""


@pytest.mark.parametrize(
    ("section", "key", "texts", "taken"),
    [
        ("[discovery]", "default_host", HOSTS + [f"{{service}}.{text}" for text in ATTACKS.values()], 10),
        ("[discovery]", "default_host", [*ATTACKS.values()], 1),
        ("[discovery]", "network", [*ATTACKS.values()], 20),
        ("[discovery]", "label_prefix", [*ATTACKS.values()], 10),
        ("[nginx]", "container", [*ATTACKS.values()], 10),
        ("[nginx]", "trusted_proxies", [[text] for text in (*PROXIES.values(), *ATTACKS.values())], 5),
        ("[[claims]]", "hosts", [[text] for text in ATTACKS.values()], 20),
        ("[[claims]]\nhosts = ['*']", "paths", [[text] for text in ATTACKS.values()], 3),
    ],
    ids=["default_host", "default_host whole", "network", "label_prefix", "container", "trusted_proxies", "hosts", "paths"],
)
def test_what_is_written_is_refused_or_does_what_the_model_says(
    section: str, key: str, texts: list[object], taken: int, tmp_path: Path
) -> None:
    found = [config for text in texts if (config := loaded(tmp_path, section, key, text))]
    assert len(found) >= taken, "or nothing was shown"
    for number, config in enumerate(found):
        assert_as_predicted(config, tmp_path / str(number))


def test_a_claim_covers_the_place_that_it_names(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[[claims]]\nhosts = ['a.example']\nprojects = ['shop']", "paths", ["/git"])
    assert config is not None
    (rule,) = claim_rules(config)
    assert [rule.covers("a.example", path) for path in ("/git", "/git/x", "/github", "/")] == [True, True, False, False]
