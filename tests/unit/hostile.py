"""Hypothesis strategies for what an attacker, or a typo, puts into labels."""

from __future__ import annotations

from hypothesis import strategies as st

from proxyctl.plan.labels import CONTAINER_KEYS, LATER_KEYS, ROUTE_KEYS, TARGET_KEYS

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
}
"""Values that are right, by key."""

_PIECES = (
    *";{}\"'$#\\\n\r\t\x00 ()[]|?+&%^<>,/*:.~-=@_",
    *("/../", "//", "*.", "$host", "${x}", "unix:/", "# ", "; }"),
    *("\u0663", "\u212a", "\u00e9", "\u0130", "\u200b", "\u2028", "\ud800"),
    *("127.0.0.1", "169.254.169.254", "a" * 64, "a." * 130, "0" * 12, "-1", "1e9", "default_server", "include /etc/passwd;"),
)
pieces = st.sampled_from(_PIECES)
good = st.sampled_from([value for values in GOOD.values() for value in values])
spoiled = st.builds(
    lambda text, at, piece: text[: at % (len(text) + 1)] + piece + text[at % (len(text) + 1) :], good, st.integers(0, 99), pieces
)
values = st.one_of(good, spoiled, st.lists(pieces, max_size=6).map("".join), st.text(max_size=40))
"""Label values: right, right but for one piece, made of bad pieces, or anything at all."""

_names = st.sampled_from((*GOOD, *LATER_KEYS, "hots", "health", "nginx ", "", "auth.file", "location", "host.", "HOST"))
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
