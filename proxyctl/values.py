"""Text that people write in labels and configuration -> typed values, by allow-list grammars.

Every parser takes the text and returns the value, or raises `BadValue` with what is wrong and what to write instead.
All patterns are matched in full and in ASCII: `$` would let a trailing newline pass, and `\\d` the digits of other scripts.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise

import idna

MAX_HOST = 253
"""Longest host name in characters (RFC 1035, section 2.3.4, without the root's dot)."""
MAX_HOST_LABEL = 63
MAX_NAME = 128
MAX_NOTICE = 3600.0
"""Seconds that a balancer has, at most, to notice that a host is left."""
MAX_PATH = 200
MAX_REQUEST_TARGET = 1024
MAX_RANGES = 32
"""Of status codes."""
MAX_STEPS = 20
"""Of a canary."""

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)", re.ASCII)
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_HOST_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?", re.ASCII)
_RULE = re.compile(r"!?(?:Host|HostRegexp|HostSNI|PathPrefix)\(\s*[`'\"]?([A-Za-z0-9.-]{0,253})", re.ASCII)
"""As Traefik writes it."""
_PATH = re.compile(r"(?:/[A-Za-z0-9._~+@:=-]+)*/?", re.ASCII)
_REQUEST_TARGET = re.compile(r"/[!-\"$-~]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_TRUE, _FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})


class BadValue(ValueError):  # noqa: N818 - reads as what it says at every raise
    """`problem` says what is wrong with the text, `hint` what to write instead."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"{problem}: {hint}")
        self.problem = problem
        self.hint = hint


class OverLimit(BadValue):
    """Right, or not even looked at, and too much."""


def shown(text: str) -> str:
    """Foreign text as it may be put into a message: quoted, printable, short."""
    cut = text if len(text) <= 80 else text[:77] + "..."
    return ascii(cut)


def within(text: str, most: int, what: str = "characters") -> None:
    """Raises OverLimit when the text has more than `most` characters."""
    if len(text) > most:
        raise OverLimit(f"{shown(text)} has {len(text)} {what}", f"{most} at the most")


def boolean(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise BadValue(f"{shown(text)} is neither true nor false", "write true or false (yes/no, on/off, 1/0 also work)")


def integer(text: str, low: int, high: int) -> int:
    word = text.strip()
    if re.fullmatch(r"[0-9]{1,9}", word, re.ASCII) and low <= int(word) <= high:
        return int(word)
    raise BadValue(f"{shown(text)} is not a number from {low} to {high}", f"write a whole number from {low} to {high}")


def duration(text: str, low: float = 0.0, high: float = math.inf) -> float:
    """`500ms`, `30s`, `5m`, `1h`, `2d` -> seconds, from `low` to `high` of them."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise BadValue(f"{shown(text)} is not a duration", "write a number and a unit, like 500ms, 30s or 5m")
    seconds = float(match[1]) * _DURATION_UNITS[match[2]]
    if not low <= seconds <= high:
        raise BadValue(f"{shown(text)} is not from {low * 1000:g} ms to {high:g} s", "write a duration in between")
    return seconds


def one_of(text: str, choices: tuple[str, ...]) -> str:
    word = text.strip().lower()
    if word in choices:
        return word
    raise BadValue(f"{shown(text)} is not one of {', '.join(choices)}", f"write {' or '.join(choices)}")


def name(text: str) -> str:
    """A service or network name."""
    word = text.strip()
    within(word, MAX_NAME)
    if _NAME.fullmatch(word):
        return word
    raise BadValue(f"{shown(text)} is not a name", "write letters, digits, dots, hyphens and underscores")


def steps(text: str) -> tuple[int, ...]:
    """`5,25,50` -> percent, each more than the one before."""
    found = tuple(integer(part, 1, 99) for part in comma_list(text))
    if not found or len(found) > MAX_STEPS or any(low >= high for low, high in pairwise(found)):
        raise BadValue(f"{shown(text)} is not a list of shares that rise", "write percents like 5,25,50")
    return found


def comma_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def host(text: str) -> str:
    """A host name in lower case, or `*.` and a name (nginx's `server_name` accepts both)."""
    rule = _RULE.match(text.strip())
    if rule:
        raise BadValue(
            f"{shown(text)} is a rule, not a host name", f"write the name alone: {rule[1]}" if rule[1] else "write the name alone"
        )
    word = text.strip().rstrip(".").lower()
    bare = word.removeprefix("*.")
    if not text.strip().isascii():  # asked of the text: the Kelvin sign is a k in lower case
        raise BadValue(f"{shown(text)} is not ASCII", f"write the name in its xn-- form{_punycode(word)}")
    if "://" in word or "/" in word:
        raise BadValue(f"{shown(text)} is an address, not a host name", "write the name alone; the path has a label of its own")
    if ":" in word:
        raise BadValue(f"{shown(text)} has a port", "write the name alone: nginx answers on its published ports")
    if "*" in bare:
        raise BadValue(f"{shown(text)} has a * inside", "a wildcard stands for the first label only, as *.example.com")
    within(bare, MAX_HOST)
    labels = bare.split(".")
    within(max(labels, key=len), MAX_HOST_LABEL, "characters between two dots")
    if not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise BadValue(f"{shown(text)} is not a host name", "write a name like app.example.com or *.example.com")
    if labels[-1].isdigit():
        raise BadValue(f"{shown(text)} is an IP address", "write a name: requests are told apart by their Host header")
    return word


def size_in_hash(length: int) -> int:
    """Bytes that a name takes in nginx's hash of names: with its length, aligned. Source: ngx_hash.c, NGX_HASH_ELT_SIZE."""
    return (length + 2 + 7) // 8 * 8


def kind_of_name(host: str) -> str:
    """What nginx minds of a name: the size, and of a wildcard, which it looks up label by label, the longest label's, too."""
    longest = f"*{size_in_hash(max(map(len, host.split('.'))))} " if host.startswith("*") else ""
    return f"{longest}{size_in_hash(len(host))}"


def _punycode(word: str) -> str:
    """The name to write instead, when there is one: as browsers look it up (UTS 46, nontransitional)."""
    bare = word.removeprefix("*.")
    wildcard = word.removesuffix(bare)
    try:
        return f": {host(wildcard + idna.encode(bare, uts46=True).decode('ascii'))}" if len(bare) <= MAX_HOST else ""
    except ValueError:
        return ""


def hosts(text: str, most: int) -> tuple[str, ...]:
    parts = comma_list(text)
    if len(parts) > most:
        raise OverLimit(f"{len(parts)} host names", f"{most} at the most")
    names = tuple(dict.fromkeys(map(host, parts)))
    if not names:
        raise BadValue("no host name", "write a name like app.example.com, or several with commas")
    return names


def path(text: str) -> str:
    """A path prefix without its trailing slash; `/` stays `/`."""
    word = text.strip()
    within(word, MAX_PATH)
    if not word.startswith("/"):
        right = len(word) < 80 and _PATH.fullmatch(f"/{word}")
        raise BadValue(f"{shown(text)} does not start with /", f"write /{word}" if right else "write a path like /git")
    trimmed = word.rstrip("/") or "/"
    segments = trimmed.split("/")[1:]
    if not _PATH.fullmatch(trimmed) or any(s in (".", "..") for s in segments):
        raise BadValue(
            f"{shown(text)} is not a path prefix", "write letters, digits and ._~+@:=- between slashes, as /git or /a/b"
        )
    return trimmed


def request_target(text: str) -> str:
    """A path with an optional query, for a health check."""
    word = text.strip()
    within(word, MAX_REQUEST_TARGET)
    if _REQUEST_TARGET.fullmatch(word):
        return word
    raise BadValue(f"{shown(text)} is not a request path", "write a path like /healthz, without spaces")


def status_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """`200-299,404` -> ((200, 299), (404, 404))."""
    ranges = []
    parts = comma_list(text)
    if len(parts) > MAX_RANGES:
        raise OverLimit(f"{len(parts)} status codes and ranges", f"{MAX_RANGES} at the most")
    for part in parts:
        match = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", part, re.ASCII)
        if not match or int(match[1]) > int(match[2] or match[1]):
            raise BadValue(f"{shown(part)} is not a status code or a range of them", "write 200, or 200-399,404")
        ranges.append((int(match[1]), int(match[2] or match[1])))
    if not ranges:
        raise BadValue("no status code", "write 200, or 200-399,404")
    return tuple(ranges)
