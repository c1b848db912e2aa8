"""What nginx prints of its configuration, read for what an included file must know of it."""

from __future__ import annotations

import pytest

from proxyctl.model import Neighbours
from proxyctl.publish import neighbours
from proxyctl.publish.neighbours import NotIncluded

DIR = "/etc/nginx/sites-enabled"
OURS = "zz-proxyctl.conf"
MAIN = f"""user www-data;
worker_processes 3;
events {{}}
http {{
    # include {DIR}/*;
    include mime.types;
    include {DIR}/*;
}}
"""


def dump(files: dict[str, str]) -> str:
    """As `nginx -T` does, with a warning before it."""
    said = "nginx: [warn] something\n"
    return said + "".join(f"# configuration file {path}:\n{text}\n" for path, text in files.items())


def read(text: str = MAIN, directory: str = DIR, **files: str) -> Neighbours:
    """`files`: those of the directory."""
    return neighbours.read(
        dump({"/etc/nginx/nginx.conf": text, **{f"{DIR}/{k}": v for k, v in files.items()}}), "/", directory, OURS
    )


def names(text: str) -> set[str]:
    return set(read(own=text).hosts)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("server { server_name a.example B.example; }", {"a.example", "b.example"}),
        ("server { listen 80; server_name a.example; }", {"a.example"}),
        ("server { listen [::]:80; server_name a.example; }", {"a.example"}),
        ("server { listen 192.0.2.1; server_name a.example; }", {"a.example"}),
        ("server { listen *:80 default_server; server_name a.example; }", {"a.example"}),
        ("server { listen localhost:80; server_name a.example; }", {"a.example"}),
        ("server { listen 443 ssl; listen [::]:443 ssl; server_name a.example; }", set()),
        ("server { listen unix:/run/80; server_name a.example; }", set()),
        ("server { listen 443 ssl; listen 80; server_name a.example; }", {"a.example"}),
        ("server { server_name .a.example *.b.example; }", {"a.example", "*.a.example", "*.b.example"}),
        ('server { server_name ~^www\\d+\\.a\\.example$ "~^(?<x>.{1,3})$"; }', set()),
        ("server { server_name 'a.example' \"b.example\"; }", {"a.example", "b.example"}),
        ("# server { server_name a.example; }\nserver { server_name b.example; # c.example\n}", {"b.example"}),
        ("server { location / { return 200 'server { server_name a.example; }'; } server_name b.example; }", {"b.example"}),
        ("upstream a.example { server 192.0.2.1; }", set()),
        ("server { set $x ${host}a; if ($x = '}') { return 404; } server_name a.example; }", {"a.example"}),
        ("server { root /a#b; server_name a.example; }", {"a.example"}),
    ],
)  # fmt: skip
def test_names_of_servers_on_port_80_are_found(text: str, found: set[str]) -> None:
    assert names(text) == found


def test_names_in_other_files_count_too_and_the_first_file_has_them() -> None:
    text = MAIN.replace("    include mime", "    server { server_name a.example; }\n    include mime")
    assert read(text, own="server { server_name a.example b.example; }").hosts == {
        "a.example": "/etc/nginx/nginx.conf",
        "b.example": f"{DIR}/own",
    }


def test_what_is_proxyctls_own_is_no_neighbour() -> None:
    plain = read(own="server {}")
    files = {OURS: "server { server_name a.example; }", ".proxyctl/objects/x.conf": "server { server_name b.example; }"}
    assert read(own="server {}", **files) == plain
    assert plain != read(own="server { }"), "and what is somebody else's is told apart"


def test_a_draft_has_their_files_where_nginx_would_read_them_and_a_gap_for_ours() -> None:
    before, after = read(**{"a": "", OURS: "", "zzz": ""}).around
    assert before.endswith(f"include mime.types;\n    \ninclude {DIR}/a;\n")
    assert after == f"include {DIR}/zzz;\n\n}}\n"
    assert f"# include {DIR}/*;" in before, "a comment is none"


@pytest.mark.parametrize(
    "written", [f"include {DIR}/*", f'include "{DIR}/*.conf"', "include sites-enabled/*.conf", "include  sites-enabled/zz*"]
)
def test_the_include_is_found_however_it_is_written(written: str) -> None:
    before, after = read(MAIN.replace(f"    include {DIR}/*", f"    server {{}} {written}")).around
    assert f"{before}{after}".count("sites-enabled") == 1, "the comment's"
    assert before.endswith("server {} \n")


@pytest.mark.parametrize(
    "text",
    [
        "events {}\n",
        f"http {{ include {DIR}/*.vhost; }}\n",
        f"http {{\n# include {DIR}/*;\n}}\n",
        f"http {{ include {DIR}x/*; }}\n",
    ],
)
def test_an_nginx_conf_that_does_not_read_our_file_is_told_what_to_write(text: str) -> None:
    with pytest.raises(NotIncluded) as caught:
        read(text)
    assert f"write include {DIR}/*;" in str(caught.value)


def test_an_nginx_that_prints_nothing_is_told_the_same() -> None:
    with pytest.raises(NotIncluded):
        neighbours.read("", "/", DIR, OURS)


def test_relative_paths_are_found_that_a_draft_elsewhere_must_have_too() -> None:
    own = (
        "server { auth_basic_user_file .htpasswd; ssl_certificate tls/a.pem; location / { include snippets/x.conf; } root /srv; }"
    )
    links = read(own=own).links
    expected = {name: f"/etc/nginx/{name}" for name in (".htpasswd", "tls", "snippets", "mime.types")}
    assert expected.items() <= links.items()
    assert not {"..", ".", "srv"} & links.keys()


@pytest.mark.parametrize(("written", "workers"), [("worker_processes 3;", 3), ("worker_processes auto;", 0), ("", 0)])
def test_the_number_of_workers_is_what_nginx_conf_says(written: str, workers: int) -> None:
    assert read(MAIN.replace("worker_processes 3;", written)).workers == workers


def test_whether_old_workers_end_is_what_nginx_conf_says() -> None:
    assert not read().ends_old_workers
    assert read(f"worker_shutdown_timeout 1h;\n{MAIN}").ends_old_workers


def test_a_path_that_nginx_was_given_relative_counts_from_its_working_directory() -> None:
    found = neighbours.read(dump({"./nginx.conf": "include sites-enabled/*;"}), "/etc/nginx", DIR, OURS)
    assert found.around == ("\n", "")
