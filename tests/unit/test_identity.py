"""What differs between two collections of objects, however little they have in common."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxyctl.identity import between

OBJECTS = [object() for _ in range(12)]
some = st.permutations(OBJECTS).flatmap(lambda order: st.integers(0, len(order)).map(lambda most: tuple(order[:most])))


@given(before=some, after=some)
def test_each_that_only_one_of_two_holds_is_told_once_and_in_order(before: tuple[object, ...], after: tuple[object, ...]) -> None:
    gone, new = between(before, after)
    assert gone == [each for each in before if each not in after]
    assert new == [each for each in after if each not in before]


@given(whole=some, out=st.integers(0, 11), into=st.integers(0, 11))
def test_one_that_comes_and_one_that_goes_are_found_anywhere(whole: tuple[object, ...], out: int, into: int) -> None:
    stranger = object()
    after = [each for each in whole if each is not OBJECTS[out]]
    after.insert(into, stranger)
    gone, new = between(whole, after)
    assert gone == [each for each in whole if each is OBJECTS[out]]
    assert new == [stranger]


def test_what_is_equal_and_not_the_same_is_another_one() -> None:
    one, other = [1000, 2000], [1000, 2000]
    assert between([one], [other]) == ([one], [other])
