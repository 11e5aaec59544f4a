"""Queries of `sluice dlq`: the dead letters that it lists, that count as open, and that it can settle."""

import json

import pytest

from sluice.db.admin.letter_details import count_behind, read_behind, read_whole_letters
from sluice.db.admin.letters import (
    Chosen,
    LetterReason,
    OpenLetters,
    count_letter_reasons,
    count_letters,
    count_parked,
    drop_keyless,
    read_head,
    read_keyless,
    read_letters,
    read_open_entities,
    resolve_conflicts,
)
from sluice.db.connection import Session
from tests.db.tasks import applying, failing
from tests.db.tasks.applying import TOPIC, Bench
from tests.db.tasks.failing import fill

bench, session = applying.bench, failing.session


def test_dead_letters_are_counted_and_listed_by_filter(bench: Bench, session: Session) -> None:
    fill(bench)
    bench.look("UPDATE sluice.dead_letters SET created_at = now() - interval '1 hour' WHERE id = 4")

    def ids(chosen: Chosen, after: int = 0, limit: int = 10) -> list[int]:
        found = [letter.id for letter in read_letters(session, chosen, after=after, limit=limit)]
        if (after, limit) == (0, 10):
            whole = [letter.id for letter in read_whole_letters(session, chosen, after=0, limit=10)]
            assert whole == found[::-1], "newest first in a list, oldest first for redrive and export"
        return found[::-1]

    assert ids(Chosen()) == [1, 2, 3, 4, 5, 6]
    assert ids(Chosen(), after=5, limit=2) == [3, 4]
    assert ids(Chosen(ids=(6, 2))) == [2, 6]
    assert ids(Chosen(state="waiting")) == [2, 3]
    assert ids(Chosen(topic=TOPIC, entity="thing", entity_key="other")) == [4]
    assert ids(Chosen(error_class="CheckViolation")) == [1, 4]
    assert ids(Chosen(type="thing.set", state="dead")) == [1, 4, 5, 6]
    assert ids(Chosen(older_than_seconds=60)) == [4]
    for nothing in (Chosen(topic="x"), Chosen(entity="x"), Chosen(type="x"), Chosen(ids=(99,))):
        assert ids(nothing) == []
    counts = {
        (one.error_class, one.state, one.outcome): one.letters for one in count_letters(session, Chosen())
    }
    assert counts["CheckViolation", "dead", "dead"] == 2
    bench.look("UPDATE sluice.dead_letters SET error_text = '[same]' WHERE id IN (1, 4, 5)")
    assert count_letter_reasons(session, Chosen(state="dead"), limit=9) == [
        LetterReason(2, TOPIC, "CheckViolation", "dead", 4, "[same]")
    ]
    assert count_letter_reasons(session, Chosen(ids=(1,)), limit=9) == []
    assert sum(counts.values()) == 6
    assert count_parked(session) == 2


def test_letters_that_wait_behind_a_dead_letter_are_counted(bench: Bench, session: Session) -> None:
    fill(bench)
    behind = {one.id: one.behind for one in read_letters(session, Chosen(), after=0, limit=10)}
    assert behind == {1: 2, 2: None, 3: None, 4: 0, 5: None, 6: 0}
    [first] = read_whole_letters(session, Chosen(ids=(1,)), after=0, limit=1)
    assert [one.id for one in read_behind(session, first, limit=1)] == [2]
    assert count_behind(session, first) == 2
    assert first.parked is not None
    assert json.loads(bytes(first.value or b""))["data"] == {"amount": -1}
    assert (read_head(session, "thing", "k"), read_head(session, "thing", "c")) == (1, None)
    # No letter waits behind a conflict or a settled letter, because neither is the head of its entity.
    bench.look("UPDATE sluice.dead_letters SET state = 'dropped' WHERE id = 1")
    assert read_head(session, "thing", "k") == 2
    assert read_letters(session, Chosen(ids=(1,)), after=0, limit=1)[0].behind is None


def test_entities_of_selected_letters_are_read_with_all_their_open_letters(
    bench: Bench, session: Session
) -> None:
    fill(bench)
    everything = read_open_entities(session, Chosen(), limit=10)
    assert everything == [
        OpenLetters("thing", "k", 1, 2),
        OpenLetters("thing", "other", 1, 0),
    ]
    assert read_open_entities(session, Chosen(ids=(3,)), limit=10) == everything[:1]
    assert read_open_entities(session, Chosen(ids=(5,)), limit=10) == []
    assert read_open_entities(session, Chosen(), limit=1) == everything[:1]
    assert read_keyless(session, Chosen(), limit=10) == [(6, "thing")]
    assert read_keyless(session, Chosen(ids=(1, 5)), limit=10) == []


@pytest.mark.parametrize("state", ["dead", "waiting", "dropped", "done"])
@pytest.mark.parametrize("outcome", ["dead", "waiting", "conflict"])
def test_only_open_conflicts_are_resolved_and_only_open_keyless_letters_dropped(
    bench: Bench, session: Session, outcome: str, state: str
) -> None:
    fill(bench)
    bench.look(f"UPDATE sluice.dead_letters SET state = '{state}', outcome = '{outcome}'")
    open_conflict = outcome == "conflict" and state == "dead"
    assert resolve_conflicts(session, [1, 5]) == ({1, 5} if open_conflict else set())
    assert resolve_conflicts(session, [1, 5]) == set()
    assert drop_keyless(session, 6) == (outcome == state)
    assert not drop_keyless(session, 4), "letter 4 has an entity"
