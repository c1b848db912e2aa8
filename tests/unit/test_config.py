"""The file and the environment -> Config, or one sentence that says where the mistake is and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyctl import config as configuration
from proxyctl.config import Config, ConfigError, Docker, Health, Nginx


def load(directory: Path, text: str, environment: Mapping[str, str] | None = None) -> Config:
    file = directory / "config.toml"
    file.write_text(text, encoding="utf-8")
    return configuration.load(file, environment or {})


def test_no_file_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(configuration, "DEFAULT_FILE", tmp_path / "none.toml")
    assert configuration.load(None, {}) == Config()


def test_the_default_file_is_read_when_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[health]\nrise = 7\n")
    monkeypatch.setattr(configuration, "DEFAULT_FILE", tmp_path / "config.toml")
    assert configuration.load(None, {}) == Config(health=Health(rise=7))


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        configuration.load(tmp_path / "none.toml", {})


def test_the_defaults_pass_their_own_checks(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("[nginx]\nimage = 'nginx:1'", "nginx", "image", "nginx:1"),
        ("[nginx]\npublish = ['127.0.0.1:8080:80']", "nginx", "publish", ("127.0.0.1:8080:80",)),
        ("[nginx]\ncreate = false", "nginx", "create", False),
        ("[nginx]\ncold_start = 'last-good'", "nginx", "cold_start", "last-good"),
        ("[nginx]\nworker_processes = 4", "nginx", "worker_processes", 4),
        ("[nginx]\nworker_shutdown_timeout = '10m'", "nginx", "worker_shutdown_timeout", 600.0),
        ("[nginx]\ntrusted_proxies = ['10.0.0.0/8', '::1']", "nginx", "trusted_proxies", ("10.0.0.0/8", "::1")),
        ("[nginx]\ntrusted_proxies = ['FD00::/8']", "nginx", "trusted_proxies", ("FD00::/8",)),
        ("[nginx]\nunknown_host = 'closed'", "nginx", "unknown_host", "closed"),
        ("[nginx]\nunknown_host = 'https://a.example:8443/b/'", "nginx", "unknown_host", "https://a.example:8443/b/"),
        ("[health]\ninterval = '500ms'", "health", "interval", 0.5),
        ("[discovery]\ndefault_host = '{service}.home.example'", "discovery", "default_host", "{service}.home.example"),
        ("[api]\nlisten = ''", "api", "listen", ""),
        ("[api]\nhosts = ['proxyctl', 'edge.internal']", "api", "hosts", ("proxyctl", "edge.internal")),
    ],
)  # fmt: skip
def test_a_key_is_read(text: str, section: str, key: str, value: object, tmp_path: Path) -> None:
    assert getattr(getattr(load(tmp_path, text), section), key) == value


MISTAKES = {
    "not TOML": ("[nginx", "not TOML", ""),
    "an unknown section": ("[ngnix]", "unknown key ngnix", "did you mean nginx?"),
    "an unknown key": ("[nginx]\nimages = 'x'", "unknown key nginx.images", "did you mean nginx.image?"),
    "a key like no other": ("[health]\nqqqq = 1", "unknown key health.qqqq", "known here: interval, timeout, rise, fall"),
    "a section that is a value": ("nginx = 'x'", "nginx is a table", "write [nginx] and its keys below"),
    "a number in words": ("[health]\nrise = 'two'", "health.rise", "write a whole number"),
    "a number with a fraction": ("[health]\nrise = 1.5", "health.rise", "write a whole number"),
    "a truth in words": ("[nginx]\njoin = 'perhaps'", "nginx.join", "write true or false"),
    "a text that is a number": ("[state]\ndir = 5", "state.dir", "write text in quotes"),
    "a list that is a text": ("[nginx]\npublish = '80:80'", "nginx.publish", 'write a list, like ["a", "b"]'),
    "a list of numbers": ("[nginx]\npublish = [80]", "nginx.publish", 'write a list, like ["a", "b"]'),
    "a layout without a directory": ("[nginx]\nlayout = 'include'", "nginx.layout = include needs nginx.dir", "of the host"),
    "a layout that cannot wait": (
        "[nginx]\nlayout = 'include'\ndir = '/x'\ncold_start = 'wait'",
        "nginx.cold_start = wait needs nginx.layout = full",
        'write "last-good"',
    ),
    "a pid file of a container": ("[nginx]\npid_file = '/x'", "nginx.pid_file needs nginx.layout = include", "in a container"),
    "a word that is none of them": ("[nginx]\ncold_start = 'maybe'", "nginx.cold_start", 'write "wait" or "last-good"'),
    "a duration without quotes": ("[health]\ninterval = 5", "health.interval", 'a duration in quotes, like "30s"'),
    "a duration without a unit": ("[health]\ninterval = '5'", "health.interval", "a number and a unit"),
    "a duration too short": ("[health]\ninterval = '0s'", "health.interval = 0 is out of range", "a value from 0.1 to 3600"),
    "a duration too long": ("[discovery]\nresync = '2h'", "discovery.resync = 7200 is out of range", "a value from 1 to 3600"),
    "a timeout too short": ("[health]\ntimeout = '1ms'", "health.timeout", "from 0.01 to 300"),
    "a shutdown timeout of nothing": ("[nginx]\nworker_shutdown_timeout = '0s'", "nginx.worker_shutdown_timeout", "from 1 to"),
    "too many workers": ("[nginx]\nworker_processes = 513", "nginx.worker_processes = 513", "from 0 to 512"),
    "a rise of none": ("[health]\nrise = 0", "health.rise = 0", "from 1 to 100"),
    "a fall of none": ("[health]\nfall = 0", "health.fall = 0", "from 1 to 100"),
    "a port alone": ("[nginx]\npublish = ['80']", "nginx.publish: '80' is not", "write HOST:CONTAINER or IP:HOST:CONTAINER"),
    "a port of a name": ("[nginx]\npublish = ['localhost:80:80']", "nginx.publish", "IP:HOST:CONTAINER"),
    "a port of UDP": ("[nginx]\npublish = ['443:443/udp']", "nginx.publish", "HOST:CONTAINER"),
    "a port that is none": ("[nginx]\npublish = ['0:80']", "nginx.publish", "HOST:CONTAINER"),
    "buffered bodies of any size": (
        "[nginx]\nclient_max_body_size = '0'",
        "nginx.request_buffering needs nginx.client_max_body_size",
        "how large one may be",
    ),
    "a size with a unit that nginx has not": ("[nginx]\nclient_max_body_size = '1t'", "nginx.client_max_body_size", "like"),
    "a worker without connections": ("[nginx]\nworker_connections = 1", "nginx.worker_connections = 1 is too few", "512"),
    "a silence without end": ("[nginx]\nread_timeout = '30d'", "nginx.read_timeout", "from 1 to 604800"),
    "a network with host bits": ("[nginx]\ntrusted_proxies = ['10.0.0.1/8']", "nginx.trusted_proxies", "like 10.0.0.0/8"),
    "a network with a mask": ("[nginx]\ntrusted_proxies = ['10.0.0.0/255.0.0.0']", "nginx.trusted_proxies", "like 10.0.0.0/8"),
    "a network with a zone": ("[nginx]\ntrusted_proxies = ['fe80::%eth0/64']", "nginx.trusted_proxies", "like 10.0.0.0/8"),
    "an answer that is no answer": ("[nginx]\nunknown_host = '500'", "nginx.unknown_host: '500' is not an answer", '"closed"'),
    "an answer with a variable": ("[nginx]\nunknown_host = 'https://$host/'", "nginx.unknown_host", "a URL like"),
    "an answer with a line break": ("[nginx]\nunknown_host = \"https://a.example/\\n\"", "nginx.unknown_host", "a URL like"),
    "an answer that ends": ("[nginx]\nunknown_host = 'https://a.example/;'", "nginx.unknown_host", "a URL like"),
    "a container's name": ("[nginx]\ncontainer = 'a b'", "nginx.container", "letters, digits, dots"),
    "a prefix": ("[discovery]\nlabel_prefix = ''", "discovery.label_prefix", "letters, digits, dots"),
    "a prefix with its dot": ("[discovery]\nlabel_prefix = 'edge.'", "discovery.label_prefix: 'edge.' has", "dots are added"),
    "a network that is none": ("[discovery]\nnetwork = 'a b'", "discovery.network: 'a b' is not a name", "letters, digits, dots"),
    "a default host with a port": ("[discovery]\ndefault_host = '{service}:80'", "discovery.default_host", "the name alone"),
    "a default host of directives": ("[discovery]\ndefault_host = '{service}; #'", "discovery.default_host", "app.example.com"),
    "a claim of an address": ("[[claims]]\nhosts = ['http://a.example']", "claims.hosts: 'http://a.example'", "*.shop.example"),
    "a claim that never matches": ("[[claims]]\nhosts = ['A.example']", "claims.hosts: 'A.example' is no", "lower case"),
    "a claim of no path": ("[[claims]]\nhosts = ['a']\npaths = ['git']", "claims.paths: 'git' does not start", "write /git"),
    "a claim of a folder": ("[[claims]]\nhosts = ['a']\npaths = ['/git/']", "claims.paths: '/git/' is not as", "write /git"),
    "an address that is a name": ("[api]\nlisten = 'localhost:9180'", "api.listen", "write IP:PORT, like 127.0.0.1:9180"),
    "an address without a port": ("[api]\nlisten = '127.0.0.1'", "api.listen", "IP:PORT"),
    "an API host with a port": ("[api]\nhosts = ['proxyctl:9180']", "api.hosts: 'proxyctl:9180' has a port", "the name alone"),
    "an API host for all": ("[api]\nhosts = ['*.internal']", "api.hosts: '*.internal' is a pattern", "write every name"),
    "a default host for all": ("[discovery]\ndefault_host = 'x.example'", "discovery.default_host has no", "{service}.home"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_that_says_where_it_is_and_what_to_write(mistake: str, tmp_path: Path) -> None:
    text, where, hint = MISTAKES[mistake]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'config.toml'}: {where}")
    assert hint in said
    assert "\n" not in said


def test_a_file_that_is_not_text_is_a_mistake_too(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not TOML"):
        configuration.load(tmp_path / "config.toml", {})


# ---------------------------------------------------------------- the environment


@pytest.mark.parametrize(
    ("name", "text", "section", "key", "value"),
    [
        ("PROXYCTL_NGINX__IMAGE", "nginx:2", "nginx", "image", "nginx:2"),
        ("PROXYCTL_NGINX__WORKER_PROCESSES", "3", "nginx", "worker_processes", 3),
        ("PROXYCTL_NGINX__CREATE", "no", "nginx", "create", False),
        ("PROXYCTL_NGINX__JOIN", "1", "nginx", "join", True),
        ("PROXYCTL_HEALTH__INTERVAL", "250ms", "health", "interval", 0.25),
        ("PROXYCTL_NGINX__PUBLISH", "81:80, 444:443", "nginx", "publish", ("81:80", "444:443")),
        ("PROXYCTL_NGINX__PUBLISH", '["81:80"]', "nginx", "publish", ("81:80",)),
        ("PROXYCTL_NGINX__TRUSTED_PROXIES", "", "nginx", "trusted_proxies", ()),
    ],
)
def test_a_variable_overrides_the_file(name: str, text: str, section: str, key: str, value: object, tmp_path: Path) -> None:
    file = "[nginx]\nimage = 'nginx:1'\npublish = ['80:80']\ncreate = true\njoin = false\ntrusted_proxies = ['::1']\n"
    assert getattr(getattr(load(tmp_path, file, {name: text}), section), key) == value


def test_a_variable_needs_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(configuration, "DEFAULT_FILE", tmp_path / "none.toml")
    monkeypatch.setenv("PROXYCTL_DOCKER__ENDPOINT", "tcp://10.0.0.1:2376")
    assert configuration.load() == Config(docker=Docker(endpoint="tcp://10.0.0.1:2376"))


@pytest.mark.parametrize("name", ["PATH", "PROXYCTL_HOME", "proxyctl_nginx__image", "X_PROXYCTL_NGINX__IMAGE"])
def test_other_variables_are_none_of_our_business(name: str, tmp_path: Path) -> None:
    assert load(tmp_path, "", {name: "x"}) == Config()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("PROXYCTL_NGINX__IMAG", "x", "unknown key nginx.imag: did you mean nginx.image?"),
        ("PROXYCTL_NGINY__IMAGE", "x", "unknown key nginy: did you mean nginx?"),
        ("PROXYCTL_HEALTH__RISE", "two", "health.rise: Expected `int`, got `str`: write a whole number"),
        ("PROXYCTL_HEALTH__RISE", "0", "health.rise = 0 is out of range"),
        ("PROXYCTL_HEALTH__INTERVAL", "3", "health.interval: '3' is not a duration"),
        ("PROXYCTL_NGINX__CREATE", "perhaps", "write true or false"),
        ("PROXYCTL_NGINX__PUBLISH", '["80:80"', 'write a,b or ["a", "b"]'),
    ],
)
def test_a_mistake_in_a_variable_is_blamed_on_the_variable(name: str, text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "[nginx]\nimage = 'nginx:1'\n", {name: text})
    assert str(caught.value).startswith(f"environment variable {name}: ")
    assert words in str(caught.value)


# ---------------------------------------------------------------- what is made of it


def test_folders_are_in_the_state_directory_unless_they_are_named() -> None:
    plain = Config(state=configuration.State(dir="/srv/proxyctl", runtime="/run/x"))
    assert (plain.state_dir, plain.runtime_dir) == (Path("/srv/proxyctl"), Path("/run/x"))
    assert (plain.nginx_dir, plain.logs_dir) == (Path("/srv/proxyctl/nginx"), Path("/srv/proxyctl/logs"))
    named = Config(nginx=Nginx(dir="/srv/conf", logs="/srv/logs"))
    assert (named.nginx_dir, named.logs_dir) == (Path("/srv/conf"), Path("/srv/logs"))


def test_published_ports_are_read_with_and_without_an_address() -> None:
    ports = Config(nginx=Nginx(publish=("80:8080", "127.0.0.1:81:80", "[::1]:82:80"))).ports
    assert ports == (("", 80, 8080), ("127.0.0.1", 81, 80), ("::1", 82, 80))


def test_the_number_of_workers_is_always_fixed() -> None:
    assert Config(nginx=Nginx(worker_processes=3)).workers == 3
    assert Config().workers >= 1


@pytest.mark.parametrize(("listen", "expected"), [("127.0.0.1:9180", ("127.0.0.1", 9180)), ("[::1]:80", ("::1", 80)), ("", None)])
def test_where_the_api_listens(listen: str, expected: object) -> None:
    assert Config(api=configuration.Api(listen=listen)).api_address == expected


def test_a_configuration_does_not_change_under_its_readers() -> None:
    with pytest.raises(AttributeError):
        Config().nginx.image = "other"  # type: ignore[misc]  # that this is refused at run time, too, is what is tested


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "config.toml"
    file.touch()
    return file


@given(
    section=st.sampled_from([field.name for field in msgspec.structs.fields(Config) if field.name != "claims"]),
    text=st.text(max_size=30),
    data=st.data(),
)
def test_any_text_in_any_variable_is_read_or_a_mistake_that_names_it(
    empty: Path, section: str, text: str, data: st.DataObject
) -> None:
    struct = next(field.type for field in msgspec.structs.fields(Config) if field.name == section)
    key = data.draw(st.sampled_from([field.name for field in msgspec.structs.fields(struct)]))
    name = f"PROXYCTL_{section}__{key}".upper()
    try:
        configuration.load(empty, {name: text})
    except ConfigError as error:
        assert str(error).startswith(f"environment variable {name}: ")  # noqa: PT017


def test_claims_are_tables_with_hosts(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[[claims]]\nhosts = ["*.shop.example"]\nprojects = ["shop"]\n', encoding="utf-8")
    (rule,) = configuration.load(file, {}).claims
    assert (rule.hosts, rule.projects, rule.images) == (("*.shop.example",), ("shop",), ())
    for text, words in (
        ("[claims]\nhosts = []", "write [[claims]]"),
        ('[[claims]]\nprojects = ["shop"]', "claims(1) has no hosts"),
        ('[[claims]]\nhost = ["a"]', "did you mean claims(1).hosts?"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            configuration.load(file, {})
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="only be written in the file"):
        configuration.load(None, {"PROXYCTL_CLAIMS__HOSTS": "a"})
