"""The search for events that Postgres refuses, in a batch that it refused as a whole."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.tasks.apply.halving import Halving


def search(events: int, refused: set[int]) -> tuple[list[int], int]:
    """Returns the events that were settled alone and refused, and the number of attempts."""
    halving, place, attempts = Halving(events), 0, 0
    found: list[int] = []
    while place < events:
        count = halving.next_count(events - place)
        assert 1 <= count <= events - place
        attempts += 1
        bad = refused & set(range(place, place + count))
        if count == 1:
            found += bad
            halving.note_single(accepted=not bad)
        elif bad:
            halving.note_refused(count)
            continue
        else:
            halving.note_accepted(count)
        place += count
    return found, attempts


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_every_refused_event_is_found_alone_with_few_attempts(case: tuple[int, set[int]]) -> None:
    events, refused = case
    found, attempts = search(events, refused)
    assert found == sorted(refused)
    assert attempts <= 3 * events


def test_one_refused_event_is_found_with_few_attempts_wherever_it_is() -> None:
    most = max(search(512, {place})[1] for place in range(512))
    assert most <= 2 * 9 + 2, "512 is 2 to the power of 9"


def test_a_batch_without_a_refused_event_is_settled_with_few_attempts() -> None:
    assert search(512, set())[1] <= 10


def test_if_all_events_are_refused_they_are_settled_one_by_one() -> None:
    assert search(512, set(range(512))) == (list(range(512)), 512 + 8)
