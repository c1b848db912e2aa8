"""One request over TCP -> nothing, or a refusal in words: too often, under a foreign name, from a foreign page, without a token.

A browser can be made to send requests to 127.0.0.1 under a foreign name (DNS rebinding) or from a foreign page, so the Host must
be an address or a name that the operator has listed, and who comes from a page must come from ours. The unix socket needs none of
this: who may open the file may ask.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from proxyctl.config import ConfigError

RATE = 20.0
"""Requests a second that one address may send for ever."""
BURST = 100
"""Requests that it may send at once after a pause."""
ADDRESSES = 1024
"""Addresses that are told apart; who asked longest ago is forgotten."""
TELL = 60.0
"""Seconds between two lines in the log about tokens that are refused."""
UNLIMITED = frozenset({"/healthz"})
"""As cheap as a refusal, and what a supervisor must never miss."""
READING = frozenset({"GET", "HEAD", "OPTIONS"})

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Asked:
    """What counts of a request. `hosts` are its Host headers, one at least, and the host of its target."""

    method: str
    path: str
    peer: str
    hosts: Sequence[str]
    origins: Sequence[str] = ()
    site: str = ""
    """Sec-Fetch-Site: what a browser says about the page that the request comes from."""
    navigates: bool = False
    """Sec-Fetch-Mode and -Dest say that somebody followed a link here."""
    authorization: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    error: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Guard:
    """`hosts`: names that may stand in Host beside addresses; `tokens`: None when no change is possible over TCP."""

    def __init__(self, hosts: Sequence[str], tokens: Tokens | None) -> None:
        self._hosts = frozenset(name.lower() for name in hosts)
        self._tokens = tokens
        self._rates = Rates()
        self._refused = 0
        self._told = -math.inf

    def refuse(self, asked: Asked) -> Refusal | None:
        return self._often(asked) or self._named(asked) or self._foreign(asked) or self._changing(asked)

    def _often(self, asked: Asked) -> Refusal | None:
        wait = 0.0 if asked.path in UNLIMITED else self._rates.take(asked.peer)
        if not wait:
            return None
        return Refusal(429, f"more than {RATE:g} requests a second", {"Retry-After": str(math.ceil(wait))})

    def _named(self, asked: Asked) -> Refusal | None:
        wrong = next((host for host in asked.hosts if not (is_address(host) or _name(host) in self._hosts)), None)
        if wrong is None:
            return None
        what = "ask by address, like http://127.0.0.1:9180, or list the name in api.hosts (a site's name must not lead here)"
        return Refusal(403, f"the Host header is {wrong!a}: {what}")

    def _foreign(self, asked: Asked) -> Refusal | None:
        host = asked.hosts[0]
        ours = (f"http://{host}".lower(), f"https://{host}".lower())
        origin = next((origin for origin in asked.origins if origin.lower() not in ours), None)
        if origin is not None:
            return Refusal(403, f"the request comes from a page of {origin!a}: only pages of {host} may ask")
        if asked.site in ("", "none", "same-origin") or asked.navigates:
            return None
        return Refusal(
            403, f"the request comes from a page of another site (Sec-Fetch-Site: {asked.site!a}): follow a link instead"
        )

    def _changing(self, asked: Asked) -> Refusal | None:
        if asked.method in READING:
            return None
        if self._tokens is None:
            return Refusal(403, "changes are possible on the unix socket only, or set api.token_file")
        problem = _problem(self._tokens, asked.authorization)
        if not problem:
            return None
        self._tell(asked.peer, problem)
        what = "the token is not one of api.token_file" if asked.authorization else "changes need a token"
        return Refusal(401, f"{what}: send Authorization: Bearer TOKEN", {"WWW-Authenticate": 'Bearer realm="proxyctl"'})

    def _tell(self, peer: str, problem: str) -> None:
        self._refused += 1
        if time.monotonic() - self._told >= TELL:
            log.warning("token refused", address=peer, times=self._refused, problem=problem)
            self._refused, self._told = 0, time.monotonic()


def is_address(host: str) -> bool:
    """Whether a Host header names an IP address or localhost, with or without a port."""
    name = _name(host)
    try:
        return name == "localhost" or bool(ipaddress.IPv6Address(name[1:-1]) if name[:1] == "[" else ipaddress.IPv4Address(name))
    except ValueError:
        return False


def _name(host: str) -> str:
    """A Host header without its port, in lower case; empty when it is not written as one."""
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", host.lower(), re.ASCII)
    return match[1] if match and int(match[2] or 0) <= 65535 else ""


# ---------------------------------------------------------------- how often


class Rates:
    """A token bucket for each address, kept as the time at which it will be full again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def take(self, peer: str) -> float:
        """Takes one and returns 0, or returns the seconds until there is one."""
        now, key = self._clock(), _network(peer)
        full_at = max(self._full_at.pop(key, now), now) + 1 / RATE
        wait = full_at - now - BURST / RATE
        self._full_at[key] = full_at if wait <= 0 else full_at - 1 / RATE
        if len(self._full_at) > ADDRESSES:
            self._full_at.pop(next(iter(self._full_at)))
        return max(0.0, wait)


def _network(peer: str) -> str:
    """An IPv4 address; of an IPv6 address the network of 64 bits, since whoever has one address there has them all."""
    address = ipaddress.ip_address(peer)
    if isinstance(address, ipaddress.IPv4Address):
        return peer
    return str(address.ipv4_mapped or int(address) >> 64)


# ---------------------------------------------------------------- tokens


class Tokens:
    """SHA-256 of each token that allows changes. The file is read at every use, so taking a line out takes effect at once."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError."""
        self._path = path
        self._read()

    def knows(self, token: str) -> bool:
        """Raises ConfigError: while the file is wrong, no token is right."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        return sum(hmac.compare_digest(digest, known) for known in self._read()) > 0

    def _read(self) -> list[str]:
        where = f"api.token_file {self._path}"
        try:
            mode, text = self._path.stat().st_mode, self._path.read_text(encoding="ascii")
        except FileNotFoundError:
            raise ConfigError(f"{where} is not there: {self._make()}") from None
        except OSError as error:
            raise ConfigError(f"{where} cannot be read ({error.strerror}): give it to the controller's user or group") from error
        except UnicodeDecodeError:
            raise ConfigError(f"{where} is not a list of hashes: {self._make()}") from None
        if mode & 0o007:
            raise ConfigError(f"{where} is open to everybody (mode {mode & 0o777:04o}): chmod o= {self._path}")
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
        hashes = [(number, line) for number, line in lines if line and not line.startswith("#")]
        for number, line in hashes:
            if not re.fullmatch(r"sha256:[0-9a-f]{64}", line, re.ASCII):
                raise ConfigError(
                    f"{where}: line {number} is not sha256: and 64 hex digits, and tokens do not belong there: {self._make()}"
                )
        if not hashes:
            raise ConfigError(f"{where} has no token: {self._make()}")
        return [line.removeprefix("sha256:") for _, line in hashes]

    def _make(self) -> str:
        return f"make a token, keep it, and write its hash: {make_token(self._path)}"


def _problem(tokens: Tokens, authorization: str) -> str:
    """What is wrong with an Authorization header, for the log; empty when a change is allowed."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return "no bearer token"
    try:
        return "" if tokens.knows(token.strip()) else "unknown"
    except ConfigError as error:
        return str(error)


def make_token(path: Path | str) -> str:
    """The command that prints a new token and leaves its hash in the file."""
    return (
        f"TOKEN=$(openssl rand -hex 32); printf %s $TOKEN | sha256sum | sed 's/^/sha256:/; s/ .*//' "
        f"| install -m 640 /dev/stdin {path}; echo $TOKEN"
    )
