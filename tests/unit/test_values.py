"""Text -> typed values: what is taken, what is refused and with which words, and that nothing else gets through."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given

from proxyctl import values
from tests.unit import hostile

Parser = Callable[[str], Any]


def percent(text: str) -> int:
    return values.integer(text, 0, 100)


def scheme(text: str) -> str:
    return values.one_of(text, ("http", "grpc"))


def hosts(text: str) -> tuple[str, ...]:
    return values.hosts(text, 3)


def interval(text: str) -> float:
    return values.duration(text, 0.1, 60)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        *(pytest.param(values.boolean, text, True, id=text) for text in ("true", "YES", " on ", "1")),
        *(pytest.param(values.boolean, text, False, id=text) for text in ("false", "No", "oFF", "0")),
        pytest.param(values.duration, "500ms", 0.5, id="milliseconds"),
        pytest.param(values.duration, " 30s ", 30.0, id="seconds, with spaces around"),
        pytest.param(values.duration, "1.5m", 90.0, id="minutes, with a fraction"),
        pytest.param(values.duration, "2h", 7200.0, id="hours"),
        pytest.param(values.duration, "7d", 604800.0, id="days"),
        pytest.param(values.name, "Shop.web_1-a", "Shop.web_1-a", id="a name"),
        pytest.param(values.host, "App.Example.", "app.example", id="a name is lowered, its root dot dropped"),
        pytest.param(values.host, "*.b.example", "*.b.example", id="a wildcard"),
        pytest.param(values.host, "intranet", "intranet", id="one label"),
        pytest.param(values.host, "a_b.example", "a_b.example", id="an underscore"),
        pytest.param(values.host, "1and1.example", "1and1.example", id="a digit in front"),
        pytest.param(values.host, "x" * 63 + ".example", "x" * 63 + ".example", id="a label of 63"),
        pytest.param(values.host, "a." * 126 + "a", "a." * 126 + "a", id="a name of 253"),
        pytest.param(hosts, "b.example,A.example , b.example", ("b.example", "a.example"), id="a list, each once"),
        pytest.param(values.path, "/", "/", id="the root"),
        pytest.param(values.path, "/git/", "/git", id="the last slash is dropped"),
        pytest.param(values.path, "/a.b/~c@d:e=f+g", "/a.b/~c@d:e=f+g", id="a path with all its signs"),
        pytest.param(values.path, "/...", "/...", id="three dots are a name"),
        pytest.param(values.request_target, "/health?full=1&x=%20", "/health?full=1&x=%20", id="a query"),
        pytest.param(values.status_ranges, "200-299, 404", ((200, 299), (404, 404)), id="statuses"),
        pytest.param(values.comma_list, " a,, b ,", ("a", "b"), id="empty parts are dropped"),
    ],
)
def test_a_good_value_is_read(parse: Parser, text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("100", 100), (" 007 ", 7)])
def test_whole_numbers_are_read_up_to_their_bounds(text: str, value: int) -> None:
    assert percent(text) == value


def test_one_of_several_words_is_read_in_any_case() -> None:
    assert scheme(" GRPC") == "grpc"


def test_a_duration_may_be_as_long_as_its_bounds() -> None:
    assert (interval("100ms"), interval("1m")) == (0.1, 60.0)


@pytest.mark.parametrize(
    ("parse", "text", "problem", "hint"),
    [
        pytest.param(values.boolean, "maybe", "neither true nor false", "write true or false", id="not a boolean"),
        pytest.param(values.boolean, "", "neither", "write true", id="nothing is not false"),
        pytest.param(percent, "101", "not a number from 0 to 100", "from 0 to 100", id="too large"),
        pytest.param(percent, "-1", "not a number", "whole number", id="a sign"),
        pytest.param(percent, "1.0", "not a number", "whole number", id="a fraction"),
        pytest.param(percent, "\u0663", "not a number", "whole number", id="digits of another script"),
        pytest.param(percent, "1" * 5000, "not a number", "whole number", id="more digits than Python converts"),
        pytest.param(values.duration, "30", "not a duration", "a unit, like 500ms", id="no unit"),
        pytest.param(values.duration, "30 s", "not a duration", "500ms", id="a space inside"),
        pytest.param(values.duration, "30s;", "not a duration", "500ms", id="something after it"),
        pytest.param(values.duration, "-1s", "not a duration", "500ms", id="a negative time"),
        pytest.param(values.duration, "\u0663s", "not a duration", "500ms", id="a time in digits of another script"),
        pytest.param(values.duration, "1e3s", "not a duration", "500ms", id="an exponent"),
        pytest.param(interval, "0s", "not from 100 ms to 60 s", "in between", id="too short"),
        pytest.param(interval, "61s", "not from 100 ms to 60 s", "in between", id="too long"),
        pytest.param(scheme, "ftp", "not one of http, grpc", "write http or grpc", id="not one of them"),
        pytest.param(values.name, "-a", "is not a name", "letters, digits", id="a hyphen in front"),
        pytest.param(values.name, "a" * 129, "has 129 characters", "128 at the most", id="a name too long"),
        pytest.param(values.name, "../a", "is not a name", "letters", id="a way up"),
        pytest.param(values.host, "", "not a host name", "app.example.com", id="no host"),
        pytest.param(values.host, "a..b", "not a host name", "app.example.com", id="two dots"),
        pytest.param(values.host, "-a.example", "not a host name", "app.example.com", id="a label starts with a hyphen"),
        pytest.param(values.host, "a-.example", "not a host name", "app.example.com", id="a label ends with a hyphen"),
        pytest.param(
            values.host, "x" * 64 + ".example", "has 64 characters between two dots", "63 at the most", id="a label of 64"
        ),
        pytest.param(values.host, "a." * 126 + "ab", "has 254 characters", "253 at the most", id="a name of 254"),
        pytest.param(values.host, "a.example;", "not a host name", "app.example.com", id="a semicolon"),
        pytest.param(values.host, "a.example\nb", "not a host name", "app.example.com", id="a line break inside"),
        pytest.param(values.host, "$host", "not a host name", "app.example.com", id="a variable"),
        pytest.param(values.host, "~^a", "not a host name", "app.example.com", id="a regular expression"),
        pytest.param(values.host, ".a.example", "not a host name", "app.example.com", id="nginx's own wildcard"),
        pytest.param(values.host, "a.example:80", "has a port", "the name alone", id="a port"),
        pytest.param(values.host, "http://a.example", "is an address", "the path has a label of its own", id="an address"),
        pytest.param(values.host, "a.example/git", "is an address", "the path has a label of its own", id="a path in the host"),
        pytest.param(values.host, "*.*.example", "a * inside", "*.example.com", id="two wildcards"),
        pytest.param(values.host, "a.*.example", "a * inside", "*.example.com", id="a wildcard in the middle"),
        pytest.param(values.host, "*", "a * inside", "*.example.com", id="every host"),
        pytest.param(values.host, "192.168.0.1", "is an IP address", "their Host header", id="an IP address"),
        pytest.param(values.host, "B\u00fccher.example", "not ASCII", "xn--bcher-kva.example", id="not ASCII"),
        pytest.param(values.host, "stra\u00dfe.example", "not ASCII", ": xn--strae-oqa.example", id="a letter of IDNA 2008"),
        pytest.param(values.host, "*.fa\u00df.example", "not ASCII", ": *.xn--fa-hia.example", id="a wildcard"),
        pytest.param(values.host, "\u212aelvin.example", "not ASCII", "xn-- form", id="a sign whose lower case is ASCII"),
        pytest.param(hosts, " , ", "no host name", "several with commas", id="a list of nothing"),
        pytest.param(hosts, "a.example,b;", "'b;' is not a host name", "app.example.com", id="one bad name of two"),
        pytest.param(hosts, "a,b,c,d", "4 host names", "3 at the most", id="too many hosts"),
        pytest.param(values.path, "git", "does not start with /", "write /git", id="a path without its slash"),
        pytest.param(values.path, "caf\u00e9", "does not start with /", "write a path like /git", id="a hint is itself right"),
        pytest.param(values.path, "/a b", "not a path prefix", "between slashes", id="a space"),
        pytest.param(values.path, "/a//b", "not a path prefix", "between slashes", id="an empty segment"),
        pytest.param(values.path, "/a/../b", "not a path prefix", "between slashes", id="a way up in a path"),
        pytest.param(values.path, "/.", "not a path prefix", "between slashes", id="a dot segment"),
        pytest.param(values.path, "/a%2e", "not a path prefix", "between slashes", id="an escape"),
        pytest.param(values.path, "/a{", "not a path prefix", "between slashes", id="a brace"),
        pytest.param(values.path, "/" + "a" * 200, "has 201 characters", "200 at the most", id="a path too long"),
        pytest.param(values.request_target, "health", "not a request path", "like /healthz", id="no slash"),
        pytest.param(values.request_target, "/" + "a" * 1024, "has 1025", "1024 at the most", id="a request too long"),
        pytest.param(values.request_target, "/a b", "not a request path", "without spaces", id="a space in a request"),
        pytest.param(values.request_target, "/a\r\nX: y", "not a request path", "without", id="a header in a request"),
        pytest.param(values.request_target, "/a#b", "not a request path", "without", id="a fragment"),
        pytest.param(values.status_ranges, "600", "not a status code", "200-399,404", id="no such status"),
        pytest.param(values.status_ranges, "300-200", "not a status code", "200-399,404", id="a range backwards"),
        pytest.param(values.status_ranges, "200-", "not a status code", "200-399,404", id="a range without an end"),
        pytest.param(values.status_ranges, "200," * 33, "33 status codes", "32 at the most", id="too many statuses"),
        pytest.param(values.status_ranges, "", "no status code", "200-399,404", id="no status"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_wrong_and_what_to_write(parse: Parser, text: str, problem: str, hint: str) -> None:
    with pytest.raises(values.BadValue) as caught:
        parse(text)
    assert problem in caught.value.problem
    assert hint in caught.value.hint


HOST = re.compile(r"(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)
GRAMMAR: dict[Parser, Callable[[Any], bool]] = {
    values.boolean: lambda value: value in (True, False),
    percent: lambda value: value in range(101),
    interval: lambda value: 0.1 <= value <= 60,
    scheme: lambda value: value in ("http", "grpc"),
    values.name: lambda value: bool(re.fullmatch(r"[A-Za-z0-9._-]{1,128}", value)),
    values.host: lambda value: bool(HOST.fullmatch(value)) and len(value.removeprefix("*.")) <= 253,
    values.path: lambda value: bool(re.fullmatch(r"/|(/[A-Za-z0-9._~+@:=-]+)+", value)) and not {".", ".."} & {*value.split("/")},
    values.request_target: lambda value: bool(re.fullmatch(r"/[\x21-\x7e]*", value)) and "#" not in value,
    values.status_ranges: lambda value: all(100 <= low <= high <= 599 for low, high in value),
}


@pytest.mark.parametrize("parse", GRAMMAR, ids=lambda parse: parse.__name__)
@given(text=hostile.values)
@example(text="/a;b")
@example(text="\x1b\u00a1")
@example(text="a" * 2_000)
@example(text="\u00fc" * 2_000)
def test_any_text_is_a_value_of_the_grammar_or_a_short_printable_refusal(parse: Parser, text: str) -> None:
    try:
        value = parse(text)
    except values.BadValue as bad:
        for words in (bad.problem, bad.hint):
            assert words.isascii()
            assert words.isprintable()
            assert len(words) < 500
    else:
        assert GRAMMAR[parse](value)
