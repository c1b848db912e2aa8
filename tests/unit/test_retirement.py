"""Old workers from one proof to the next: worked out of what has changed, what they know is what it would be of everything."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from proxyctl.fileset import Generation
from proxyctl.model import RouteTable, Snapshot, Target, VirtualHost
from proxyctl.plan import generations
from proxyctl.publish.reload import Live
from proxyctl.retirement import Retirement
from tests.unit import make

TARGETS = [make.routed(f"10.0.0.{n}:80").target for n in range(4)]


def vhost(host: str, chosen: frozenset[int]) -> VirtualHost:
    routed = [make.routed(f"{TARGETS[n].address}:80") for n in sorted(chosen)]
    return VirtualHost(host, (make.location("/", *routed),))


HOSTS = st.dictionaries(st.sampled_from(["a.example", "b.example", "c.example"]), st.frozensets(st.sampled_from(range(4))))
WORKERS = st.frozensets(st.integers(1, 6))


def everything(table: RouteTable) -> Mapping[Target, str]:
    return generations.serving(table.vhosts)


@given(
    steps=st.lists(st.tuples(HOSTS, st.none() | WORKERS, st.booleans()), max_size=8),
    before=st.frozensets(st.sampled_from(TARGETS)),
)
def test_what_old_workers_know_is_what_was_served_and_is_not_any_more(
    steps: list[tuple[dict[str, frozenset[int]], frozenset[int] | None, bool]], before: frozenset[Target]
) -> None:
    """`steps`: what is published, the workers that end when it is proved (None: it is not), and whether equal hosts are the same
    object as the last time."""
    retirement = Retirement((), before)
    expected: tuple[Generation, ...] = ()
    served: Mapping[Target, str] = dict.fromkeys(before, "")
    known: dict[tuple[str, frozenset[int]], VirtualHost] = {}
    for hosts, ending, same in steps:
        if not same:
            known.clear()
        table = RouteTable(tuple(known.setdefault(item, vhost(*item)) for item in sorted(hosts.items(), key=lambda i: i[0])))
        retirement.attempted(table)
        served = {**everything(table), **served}
        if ending is not None:
            retirement.proved(Live("digest", "nginx", "now", frozenset({9}), ending), table, Snapshot({}), 1.0)
            expected = generations.advance(expected, "nginx now", ending, served, everything(table), {}, 1.0)
            served = everything(table)
        assert retirement.generations == expected
