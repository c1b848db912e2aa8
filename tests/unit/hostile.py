"""Hypothesis strategies for what an attacker, or a typo, puts into labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hypothesis import strategies as st

from proxyctl.plan.labels import CONTAINER_KEYS, ROUTE_KEYS, TARGET_KEYS

GOOD = {
    "host": ("a.example", "*.b.example", "a.example, c.example", "xn--bcher-kva.example"),
    "path": ("/", "/git", "/a/b", "/~x@y:z=1"),
    "strip-path": ("true", "no", "ON"),
    "port": ("80", "8080"),
    "scheme": ("http", "https", "grpc", "grpcs"),
    "network": ("front", "back"),
    "weight": ("1", "1000"),
    "health.type": ("http", "tcp", "none"),
    "health.path": ("/healthz", "/?a=b"),
    "health.port": ("81",),
    "health.host": ("h.example",),
    "health.interval": ("500ms", "1m"),
    "health.timeout": ("1s",),
    "health.rise": ("3",),
    "health.fall": ("1",),
    "health.status": ("200", "200-299,404"),
    "enable": ("true", "1"),
    "service": ("web", "Shop.web_1"),
    "version": ("v1", "2026.1_b-c"),
    "rollout": ("auto", "MANUAL", "canary"),
    "rollout.bake": ("0s", "1m"),
    "rollout.deadline": ("5s",),
    "rollout.retire": ("keep", "stop"),
    "rollout.steps": ("5,25,50", "1"),
    "rollout.drain": ("30s",),
}
"""Values that are right, by key."""

_PIECES = (
    *";{}\"'$#\\\n\r\t\x00 ()[]|?+&%^<>,/*:.~-=@_",
    *("/../", "//", "*.", "$host", "${x}", "unix:/", "# ", "; }"),
    *("\u0663", "\u212a", "\u00e9", "\u0130", "\u200b", "\u2028", "\ud800"),
    *("127.0.0.1", "169.254.169.254", "a" * 64, "a." * 130, "0" * 12, "-1", "1e9", "default_server", "include /etc/passwd;"),
)


def _spoil(text: str, at: int, piece: str) -> str:
    return text[: at % (len(text) + 1)] + piece + text[at % (len(text) + 1) :]


pieces = st.sampled_from(_PIECES)
good = st.sampled_from([value for values in GOOD.values() for value in values])
spoiled = st.builds(_spoil, good, st.integers(0, 99), pieces)
values = st.one_of(good, spoiled, st.lists(pieces, max_size=6).map("".join), st.text(max_size=40))
"""Label values: right, right but for one piece, made of bad pieces, or anything at all."""

_names = st.sampled_from((*GOOD, "hots", "health", "nginx ", "", "auth.file", "location", "host.", "HOST"))
_routes = st.sampled_from(("", "", "", "routes.x.", "routes.y.", "routes.", "routes.X.", "routes.a b.", "routes.default."))
keys = st.builds(lambda route, key: route + key, _routes, st.one_of(_names, pieces))
"""Keys without the prefix: known, later, misspelt, of named routes, and nonsense."""

KNOWN = (*ROUTE_KEYS, *TARGET_KEYS, *CONTAINER_KEYS)
labels = st.dictionaries(keys, values, max_size=8)
right = st.fixed_dictionaries(
    {"host": st.sampled_from(GOOD["host"])}, optional={key: st.sampled_from(GOOD[key]) for key in KNOWN if key != "host"}
)
plausible = right | st.builds(lambda said, one: said | one, right, st.dictionaries(keys, values, max_size=1))
"""Labels that are right, or all but one."""


# ---------------------------------------------------------------- ways in, each seen somewhere

ATTACKS = {
    # out of the directive, the block, the file
    "ends its directive": "a.example; server_name evil.example",
    "ends its block": "/a } location /b { return 200",
    "ends its server": "a.example; } server { listen 80; server_name evil.example; location / { return 200; } } #",
    "a location": "/a { return 200; } location /b",
    "a directive on a new line": "/a\nreturn 200",
    "closes from a new line": "/a\n}",
    "a carriage return": "/a\rreturn 200;",
    "includes a file": "include /etc/passwd;",
    "an error page that hides a failed login": "/login; error_page 401 403 =200 /",
    "a rewrite": "/a last; rewrite ^/(.*)$ http://evil.example/$1 permanent",
    "Lua": "/a; content_by_lua_block { os.execute('id') }",
    # comments
    "starts a comment": "/a # rest",
    "ends a comment": "comment\n} server { listen 81; } # rest",
    "a comment in a value": "a.example #",
    # quotes and escapes
    "a single quote": "x'; add_header X-Evil 1; #",
    "a double quote": 'x" always; add_header X-Evil "1',
    "an escape at the end": "/a\\",
    "an escaped blank": "/a\\ b",
    "a header in single quotes": "'a' 'b'",
    "a header of its own": "/a\r\nX-Evil: 1",
    # regular expressions and modifiers
    "a regular expression": "~^(?<user>.*)$",
    "an expression without an anchor": "~good.example",
    "a location's modifier": "= /a",
    "a prefix that stops regular expressions": "^~ /a",
    "a regular location": "~* \\.php$",
    "a named location": "@fallback",
    "captures that overlap": "~((a)|b)+$",
    # variables
    "a variable": "$host",
    "a variable in braces": "${uri}.example",
    "an argument": "$arg_target",
    "a capture": "/$1",
    "a header as a variable": "$http_x_evil.example",
    # zones, files, names
    "a zone": "zone=proxyctl:10m",
    "a variable's name": "set $proxyctl_trusted 1",
    "a way up": "../../../../etc/passwd",
    "a way up behind a good start": "/a/../../b",
    "a file of another name": "objects/*.conf",
    "a name that a file would share": "a.example_git",
    "an upstream's own name": "proxyctl_" + "0" * 32,
    # targets
    "a socket": "unix:/var/run/docker.sock",
    "a target in a variable": "http://$http_host/",
    "metadata": "169.254.169.254",
    "link-local": "[fe80::1%eth0]",
    "itself": "127.0.0.1:9180",
    "auth_request": "/auth; proxy_pass http://evil.example",
    "a mirror": "http://evil.example/$request_uri",
    "a client certificate": '"~CN=admin"',
    "a redirect": "//evil.example/",
    "a redirect with a backslash": "/\\evil.example",
    # what a pattern lets through
    "a trailing newline": "a.example\n",
    "a trailing newline of a path": "/git\n",
    "a trailing newline of a number": "80\n",
    "a trailing NUL": "/git\x00",
    "a NUL inside": "a\x00.example",
    "a vertical tab": "a\x0b.example",
    "Arabic digits": "\u0668\u0660",
    "fullwidth digits": "\uff18\uff10",
    "a digit of another script in an address": "10.0.0.\u0663",
    "a line separator": "/a\u2028/b",
    "a blank without width": "a\u200b.example",
    "right to left": "\u202egnp.example",
    "a byte order mark": "\ufeffa.example",
    "half a character": "\ud800.example",
    "an accent apart": "u\u0308ber.example",
    "the Kelvin sign": "\u212aelvin.example",
    "a long s": "\u017fite.example",
    "a fullwidth dot": "a\uff0eexample",
    "a dotted capital i": "\u0130.example",
    # fine alone, not after concatenation
    "the root": "/",
    "two roots": "//",
    "an empty segment": "/a//b",
    "a slash at the end": "/a/",
    "slashes at the end": "/a///",
    "a dot": "/.",
    "two dots": "/a/..",
    "three dots": "/...",
    "encoded dots": "/a/%2e%2e/",
    "an encoded slash": "/a%2f..%2fb",
    "a percent alone": "/%",
    "a query": "/a?b",
    "a fragment": "/a#b",
    "a semicolon in a path": "/a;b",
    "a dot behind": "a.example.",
    "dots behind": "a.example..",
    "a dot in front": ".a.example",
    "a hyphen in front": "-a.example",
    "no scheme": "://",
    "commas alone": ",,,",
    "a comma behind": "a.example,",
    "a blank in a list": "a.example, ,b.example",
    "nothing": "",
    "blanks": " \t ",
    # hosts
    "every host": "*",
    "a wildcard": "*.a.example",
    "a wildcard of a name of one label": "*.example",
    "two wildcards": "*.*.example",
    "a wildcard inside": "a.*.example",
    "a wildcard behind": "www.*",
    "nothing behind a wildcard": "*.",
    "nginx's default name": "_",
    "an underscore": "_dmarc.a_b.example",
    "default_server": "default_server",
    "mixed case": "GooD.Example",
    "IDN": "b\u00fccher.example",
    "IDN in ASCII": "XN--Bcher-kva.example",
    "an xn-- of nothing": "xn--.example",
    "an address of decimals": "2130706433",
    "an address of hexadecimals": "0x7f.1",
    "proxyctl's own": "starting.proxyctl.invalid",
    "somebody else's": "good.example",
    "below somebody else's": "x.good.example",
    # too long
    "a long label": "a" * 64 + ".example",
    "the longest label": "a" * 63 + ".example",
    "a long name": "a." * 127,
    "the longest name": "a." * 126 + "a",
    "a long path": "/" + "a" * 300,
    "a deep path": "/a" * 100,
    "a very long value": "a" * 100_000,
    "many numbers": "9" * 5_000,
    # words that mean something elsewhere
    "a template": "{{ 7 * 7 }}",
    "a template's block": "{% include 'nginx.conf.j2' %}",
    "a format": "%(host)s {0.__class__}",
    "a placeholder": "{service}",
    "a shell's words": "$(id) `id` | id && id",
    "a negative number": "-1",
    "an exponent": "1e9",
    "infinity": "inf",
    "an underscore in a number": "8_0",
    "a sign": "+80",
    "hexadecimals": "0x50",
    "no number": "NaN",
}
"""What got configuration through elsewhere, or is likely to: by what it tries."""


# ---------------------------------------------------------------- whole containers

_SIGNS = "abzAZ019._~+@:=-"
_host_labels = st.one_of(
    st.sampled_from(("a", "b-c", "x_y", "_", "0", "xn--bcher-kva", "Ab", "x" * 63, "1a", "a1")),
    st.text("abcXYZ019_", min_size=1, max_size=8),
)
_hosts = st.builds(
    lambda star, labels, tld, end: f"{'*.' * star}{'.'.join(labels)}.{tld}{'.' * end}",
    st.integers(0, 5).map(lambda n: n == 0),
    st.lists(_host_labels, min_size=1, max_size=4),
    st.sampled_from(("example", "EXAMPLE", "xn--p1ai", "_", "x0")),
    st.integers(0, 5).map(lambda n: n == 0),
)
_segments = st.text(_SIGNS, min_size=1, max_size=6).filter(lambda text: text not in (".", ".."))
_paths = st.builds(
    lambda parts, end: "/" + "/".join(parts) + "/" * bool(parts and end), st.lists(_segments, max_size=4), st.booleans()
)
_around = st.sampled_from(("{}", "{}", "{}", "{} ", "\t{}", "{}\n"))


def _edges(key: str) -> st.SearchStrategy[str]:
    """Values that are taken, out to the edges of the grammar."""
    special: dict[str, st.SearchStrategy[str]] = {
        "host": st.lists(_hosts, min_size=1, max_size=3).map(",".join),
        "path": _paths,
        "port": st.integers(1, 65535).map(str),
        "weight": st.integers(1, 1000).map(str),
        "service": st.text("abAB01._-", max_size=10).map(lambda text: f"s{text}"),
        "health.path": st.text([chr(n) for n in range(0x21, 0x7F) if chr(n) != "#"], max_size=20).map(lambda text: f"/{text}"),
    }
    found = special[key] if key in special else st.sampled_from(GOOD[key])
    return st.builds(lambda around, text: around.replace("{}", text), _around, found)


_attacks = st.sampled_from([*ATTACKS.values()])
_wrong = st.one_of(_attacks, spoiled, values)
_WRITTEN = ("host", "path")
"""What nginx is given as it is written: tried more often than the others."""
_ROUTE = [*ROUTE_KEYS, *TARGET_KEYS]


def _right(prefix: str, keys: Iterable[str]) -> st.SearchStrategy[dict[str, str]]:
    """A host and some of the other keys, all of them taken."""
    others = st.lists(st.one_of([st.tuples(st.just(prefix + key), _edges(key)) for key in keys if key != "host"]), max_size=4)
    return st.builds(lambda host, more: dict([*more, (f"{prefix}host", host)]), _edges("host"), others)


def _spoilt(prefix: str, keys: Iterable[str]) -> st.SearchStrategy[dict[str, str]]:
    """One of the keys with a text that is wrong, or taken all the same."""
    ones = [
        *(st.tuples(st.just(prefix + key), st.builds(_spoil, _edges(key), st.integers(0, 99), pieces)) for key in _WRITTEN),
        *(st.tuples(st.just(prefix + key), _attacks) for key in _WRITTEN),
        st.tuples(st.sampled_from([*keys]).map(lambda key: prefix + key), _wrong),
    ]
    return st.builds(lambda said, bad: said | dict([bad]), _right(prefix, keys), st.one_of(ones))


_named = _right("routes.x.", _ROUTE)
said = st.one_of(
    _right("", KNOWN),
    st.builds(lambda plain, named: plain | named, _right("", KNOWN), _named),
    _spoilt("", KNOWN),
    st.builds(lambda plain, bad: plain | bad, _right("", KNOWN), _spoilt("routes.y.", _ROUTE)),
    st.builds(lambda named, bad: named | bad, _named, _spoilt("routes.y.", _ROUTE)),
    st.builds(lambda plain, key, text: plain | {f"routes.y.{key}": text}, _right("", KNOWN), _wrong, _wrong),
    labels,
)
"""All right out to the edges; one of them wrong; wrong in one route and right in another; or anything at all."""
names = st.one_of(st.sampled_from(("web", "Web", "web-1", "shop")), st.sampled_from([*ATTACKS.values()]), values)
"""Of containers, images, networks, compose projects and services."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """What somebody who may start containers can say."""

    labels: Mapping[str, str]
    foreign: Mapping[str, str]
    """Labels that are not ours, whole."""
    name: str = "web"
    image: str = "image"
    network: str = "front"
    project: str = ""
    service: str = ""
    state: str = "healthy"


strangers = st.builds(
    Stranger,
    labels=said,
    foreign=st.dictionaries(names, names, max_size=2),
    name=names,
    image=names,
    network=names,
    project=names | st.just(""),
    service=names | st.just(""),
    state=st.sampled_from(("healthy", "healthy", "healthy", "unhealthy", "warming")),
)
