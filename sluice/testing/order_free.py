"""Checks that events give the same result in any order, and finds a smallest counterexample."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from sluice.tasks.api import Call, Emit
from sluice.testing.any_world import State
from sluice.testing.incoming import Incoming
from sluice.testing.world import World
from sluice.testing.written_test import incoming_code, order_test

ALL_ORDERS_UP_TO = 6
"""Up to this number of events, every order is tried (720 orders). For more events, a sample of
orders is tried.
"""
SAMPLED_ORDERS = 300

Order: TypeAlias = tuple[int, ...]
"""The numbers of events in the order of arrival. A repeated number is a repeat of its event."""
Play: TypeAlias = Callable[[Order], State]


def assert_order_free(world: World, events: Sequence[Incoming], *, seed: int = 0) -> None:
    """Fails if rows, outgoing events or calls depend on the order in which the events arrive.

    Tries every order of up to 6 events, else a random sample by `seed`. Each order repeats some
    events. Each order starts with a copy of `world`, so `world` is not changed. The failure shows
    the smallest pair of orders with different results, as code of a test that you can paste.
    """
    given = [
        event.with_id(f"order-free-{number}", world.topic(event.topic))
        for number, event in enumerate(events, start=1)
    ]
    play = _player(world, given)
    whole = tuple(range(len(given)))
    expected = play(whole)
    for order in orders(len(given), seed):
        if play(order) != expected:
            one, other = smallest_difference(play, whole, order)
            raise AssertionError(_message(world, given, one, other))


def orders(count: int, seed: int) -> Iterator[Order]:
    """Yields orders of `count` events with repeats: all orders, or a sample with the reverse order."""
    rng = random.Random(seed)
    whole = tuple(range(count))
    if count <= ALL_ORDERS_UP_TO:
        some: Iterator[Order] = itertools.permutations(whole)
    else:
        sampled = (tuple(rng.sample(whole, count)) for _ in range(SAMPLED_ORDERS))
        some = itertools.chain([whole[::-1]], sampled)
    for order in some:
        yield _with_repeats(order, rng)


def smallest_difference(play: Play, whole: Order, order: Order) -> tuple[Order, Order]:
    """Returns two orders of as few events as possible with different results. The results of
    `whole` and `order` must differ.
    """
    for pair in itertools.combinations(whole, 2):
        if play(pair) != play(pair[::-1]):
            return pair, pair[::-1]
    once = tuple(dict.fromkeys(order))
    if play(once) != play(whole):
        return _without_rest(play, *_differing_swap(play, whole, once))
    return _without_rest(play, once, order)


def _differing_swap(play: Play, whole: Order, order: Order) -> tuple[Order, Order]:
    """Returns two orders with different results that differ only by a swap of two neighbours.
    Searches on the way from one given order to the other.
    """
    current, expected = list(whole), play(whole)
    for place, wanted in enumerate(order):
        for at in range(current.index(wanted), place, -1):
            before = tuple(current)
            current[at - 1], current[at] = current[at], current[at - 1]
            if play(tuple(current)) != expected:
                return before, tuple(current)
    raise AssertionError(
        "the first and the last order have different results, so one of the swaps changes the result"
    )


def _without_rest(play: Play, one: Order, other: Order) -> tuple[Order, Order]:
    """Removes events while the results of the two orders still differ."""
    for number in sorted(set(other)):
        fewer = tuple(n for n in one if n != number), tuple(n for n in other if n != number)
        if play(fewer[0]) != play(fewer[1]):
            one, other = fewer
    return one, other


def _with_repeats(order: Order, rng: random.Random) -> Order:
    repeated = list(order)
    for number in order:
        if rng.random() < 0.5:
            repeated.insert(rng.randint(repeated.index(number) + 1, len(repeated)), number)
    return tuple(repeated)


def _player(world: World, events: Sequence[Incoming]) -> Play:
    def play(order: Order) -> State:
        return _played(world, events, order).state

    return play


def _played(world: World, events: Sequence[Incoming], order: Order) -> World:
    played = world.copy()
    played.restart()
    sent: dict[int, int] = {}
    for number in order:
        if number in sent:
            played.repeat_event(sent[number])
        else:
            sent[number] = played.sent_events
            played.send_event(events[number])
    return played


def _message(world: World, events: Sequence[Incoming], one: Order, other: Order) -> str:
    used = sorted({*one, *other})
    first, second = _played(world, events, one), _played(world, events, other)
    lines = [
        "the result depends on the order of arrival of these events:",
        *(f"  {number + 1}. {incoming_code(events[number])}" for number in used),
        "",
        f"order {_shown(one)} and order {_shown(other)} differ:",
        *(f"  {line}" for line in _differences(first.state, second.state)),
    ]
    for played, order in ((first, one), (second, other)):
        outcomes = played.outcomes[len(world.outcomes) :]
        lines.append(f"  in order {_shown(order)} the outcomes are {', '.join(outcomes)}")
        ended = played.ended_early[len(world.ended_early) :]
        lines += [f"  in order {_shown(order)} {line}" for line in ended]
        lines += [
            f"  in order {_shown(order)} {letter.type or 'a tombstone'} of {letter.key!r} is"
            f" {letter.outcome}: {letter.error}"
            for letter in played.dead_letters
        ]
    return "\n".join([*lines, "", "As a test:", "", order_test(world.script, events, one, other)])


def _shown(order: Order) -> str:
    return ", ".join(str(number + 1) for number in order)


def _differences(one: State, other: State) -> Iterator[str]:
    for table in sorted(one.rows.keys() | other.rows.keys()):
        mine, theirs = one.rows.get(table, {}), other.rows.get(table, {})
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                yield f"row {key!r} of {table}: {mine.get(key)} and {theirs.get(key)}"
    yield from _only_in("emitted", one.emitted, other.emitted)
    yield from _only_in("called", one.calls, other.calls)


def _only_in(what: str, one: Sequence[Emit | Call], other: Sequence[Emit | Call]) -> Iterator[str]:
    for name, mine, theirs in (("first", one, other), ("second", other, one)):
        left = list(theirs)
        for effect in mine:
            if effect in left:
                left.remove(effect)
            else:
                yield f"{what} in the {name} order alone: {effect}"
