"""Request headers in which applications and frameworks look for what a proxy says of a client: its address, the scheme, host
and path that it asked for, its certificate and its name. A client must not be able to say any of it.

docs/security.md lists them for operators; a test compares both.
"""

from __future__ import annotations

from itertools import product

REPLACED = (
    "X-Real-IP",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
)
"""nginx sets them itself."""
REMOVED = ("Forwarded", "Proxy", "X-Forwarded-Server")
"""Removed whoever sends them."""
CLIENT_SAYS = (
    # The client's address.
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "CF-Pseudo-IPv4",
    "Client-IP",
    "CloudFront-Viewer-Address",
    "DO-Connecting-IP",
    "Fastly-Client-IP",
    "Fly-Client-IP",
    "Forwarded-For",
    "Proxy-Client-IP",
    "True-Client-IP",
    "WL-Proxy-Client-IP",
    "X-AppEngine-User-IP",
    "X-Azure-ClientIP",
    "X-Azure-SocketIP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Envoy-External-Address",
    "X-Forwarded",
    "X-Forwarded-By",
    "X-Original-Forwarded-For",
    "X-Original-Remote-Addr",
    "X-Originating-IP",
    "X-ProxyUser-IP",
    "X-Remote-Addr",
    "X-Remote-IP",
    # The scheme.
    "CF-Visitor",
    "CloudFront-Forwarded-Proto",
    "Front-End-Https",
    "X-ARR-SSL",
    "X-Forwarded-Https",
    "X-Forwarded-Protocol",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "X-Https",
    "X-Original-Proto",
    "X-Original-Scheme",
    "X-Scheme",
    "X-Url-Scheme",
    # The host, the path and the method.
    "X-Forwarded-Method",
    "X-Forwarded-Path",
    "X-Forwarded-Uri",
    "X-HTTP-Host-Override",
    "X-Host",
    "X-Original-Host",
    "X-Original-Method",
    "X-Original-Uri",
    "X-Original-Url",
    "X-Replaced-Path",
    "X-Rewrite-Url",
    "X-Script-Name",
    # The client's certificate and name.
    "Remote-Email",
    "Remote-Groups",
    "Remote-Name",
    "Remote-User",
    "X-Auth-Request-Email",
    "X-Auth-Request-Groups",
    "X-Auth-Request-User",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-Tls-Client-Cert",
    "X-Forwarded-User",
    "X-Remote-User",
    "X-Webauth-User",
)
"""Removed unless a trusted proxy sends them."""
_FRAMING = ("Content-Length", "Content-Type", "Transfer-Encoding")
"""Names that CGI and WSGI know by a variable of their own, with an underscore."""


def with_underscores(name: str) -> list[str]:
    """Return the other names that a framework of the CGI kind takes for this one: it reads each hyphen as an underscore."""
    words = name.split("-")
    ways = [
        "".join((words[0], *map("".join, zip(between, words[1:], strict=True))))
        for between in product("-_", repeat=len(words) - 1)
    ]
    return ways[1:]


ALIASES = tuple(alias for name in (*REPLACED, *REMOVED, *CLIENT_SAYS, *_FRAMING) for alias in with_underscores(name))
"""Always removed: a target could take one for the header that nginx has set."""
