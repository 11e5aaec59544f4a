"""Workers without a supervisor write a note to Postgres that names the event whose handlers run."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from uuid import UUID

import pytest

from sluice.db.connection import Session
from sluice.runtime.handler_watch import main_watch
from sluice.runtime.place import EventPlace
from sluice.tasks.apply.handler_notes import NOTE_SETTINGS, HandlerNotes
from tests.db.tasks.applying import QUEUE, TOPIC, TOPIC_ID, Bench, made, slice_of, thing_set
from tests.db.tasks.applying import bench as bench

FIRST = EventPlace(TOPIC, TOPIC_ID, 0, 5)
OTHER_LANE = EventPlace(TOPIC, TOPIC_ID, 1, 5)
NOTES = 'SELECT topic, topic_id, partition, "offset" FROM sluice.handler_notes'
DEATHS = 'SELECT topic, topic_id, partition, "offset", deaths, timed_out, how FROM sluice.handler_deaths'
DIED = (False, "an end without a report")

MakeNotes = Callable[..., HandlerNotes]
never_left: list[AbstractContextManager[None]] = []


@pytest.fixture
def make_notes(database_url: str) -> Iterator[MakeNotes]:
    sessions: list[Session] = []

    def make(worker: int, *, supervised: bool = False) -> HandlerNotes:
        sessions.append(Session(database_url, application_name="test notes", settings=NOTE_SETTINGS))
        return HandlerNotes(sessions[-1], UUID(int=worker), notes_handlers=not supervised)

    yield make
    while never_left:
        never_left.pop().__exit__(None, None, None)
    for session in sessions:
        session.close()


def end_inside(notes: HandlerNotes, place: EventPlace, queue: str = QUEUE) -> None:
    """Writes the note of an event and leaves it, as a worker does that ends while the handlers run."""
    batch = notes.batch(queue)
    batch.__enter__()
    notes.begin(queue, place)
    # The context manager is kept, because its garbage collection would end the batch normally.
    never_left.append(batch)


def fail_after(notes: HandlerNotes) -> None:
    notes.begin(QUEUE, FIRST)
    notes.end(QUEUE)
    raise RuntimeError


def test_a_batch_has_one_note_which_counts_as_no_death(bench: Bench, make_notes: MakeNotes) -> None:
    notes = make_notes(1)
    with notes.batch(QUEUE):
        assert bench.look(NOTES) == []
        for place in (FIRST, FIRST._replace(offset=6)):
            notes.begin(QUEUE, place)
            notes.end(QUEUE)
            assert bench.look(NOTES) == [FIRST]
    assert bench.look(NOTES) == []
    end_inside(make_notes(2), FIRST)
    with make_notes(3).batch(QUEUE):
        assert (bench.look(NOTES), bench.look(DEATHS)) == ([], [])


def test_after_a_left_note_each_event_is_noted_while_its_handlers_run(
    bench: Bench, make_notes: MakeNotes
) -> None:
    end_inside(make_notes(2), FIRST)
    notes = make_notes(1)
    with notes.batch(QUEUE):
        assert bench.look(NOTES) == []
        for place in (FIRST, FIRST._replace(offset=6)):
            notes.begin(QUEUE, place)
            assert bench.look(NOTES) == [place]
            notes.end(QUEUE)
            assert bench.look(NOTES) == []
    assert bench.look(DEATHS) == []


def test_the_next_worker_counts_a_left_note_as_one_death(bench: Bench, make_notes: MakeNotes) -> None:
    for worker, deaths in ((1, 0), (2, 0), (3, 1), (4, 2)):
        end_inside(make_notes(worker), FIRST)
        assert [row[4] for row in bench.look(DEATHS)] == [deaths] * bool(deaths)
    with make_notes(5).batch(QUEUE):
        pass
    assert bench.look(DEATHS) == [(*FIRST, 3, *DIED)]
    # Later workers do not count the same note again.
    with make_notes(6).batch(QUEUE), make_notes(5).batch(QUEUE):
        assert bench.look(DEATHS) == [(*FIRST, 3, *DIED)]


def test_deaths_in_two_queues_are_counted_separately(bench: Bench, make_notes: MakeNotes) -> None:
    for worker in (1, 2):
        end_inside(make_notes(worker), FIRST)
        end_inside(make_notes(worker), OTHER_LANE, queue="thing.9")
    with make_notes(3).batch(QUEUE):
        assert bench.look(DEATHS) == [(*FIRST, 1, *DIED)]


def test_no_note_is_written_for_a_lane_after_its_first_slice_is_applied(
    bench: Bench, make_notes: MakeNotes
) -> None:
    notes = make_notes(1)
    with notes.batch(QUEUE):
        notes.begin(QUEUE, FIRST)
        notes.end(QUEUE)
    with notes.batch(QUEUE):
        notes.begin(QUEUE, FIRST._replace(offset=6))
        assert bench.look(NOTES) == []
        notes.end(QUEUE)
        notes.begin(QUEUE, OTHER_LANE)
        assert bench.look(NOTES) == [OTHER_LANE]
        notes.end(QUEUE)


def test_notes_are_still_written_for_a_lane_after_a_failed_batch(bench: Bench, make_notes: MakeNotes) -> None:
    notes = make_notes(1)
    with pytest.raises(RuntimeError), notes.batch(QUEUE):
        fail_after(notes)
    with notes.batch(QUEUE):
        notes.begin(QUEUE, FIRST)
        assert bench.look(NOTES) == [FIRST]
        notes.end(QUEUE)


def test_notes_are_written_again_for_a_queue_that_other_workers_had(
    bench: Bench, make_notes: MakeNotes
) -> None:
    notes = make_notes(1)
    with notes.batch(QUEUE):
        notes.begin(QUEUE, FIRST)
        notes.end(QUEUE)
    notes.forget(QUEUE)
    for worker in (2, 3):
        end_inside(make_notes(worker), FIRST)
    with notes.batch(QUEUE):
        assert bench.look(DEATHS) == [(*FIRST, 1, *DIED)]
        notes.begin(QUEUE, FIRST)
        assert bench.look(NOTES) == [FIRST]
        notes.end(QUEUE)


def test_a_supervised_worker_counts_deaths_but_writes_no_notes(bench: Bench, make_notes: MakeNotes) -> None:
    for worker in (1, 3):
        end_inside(make_notes(worker), FIRST)
    notes = make_notes(2, supervised=True)
    with notes.batch(QUEUE):
        notes.begin(QUEUE, FIRST)
        assert (bench.look(NOTES), bench.look(DEATHS)) == ([], [(*FIRST, 1, *DIED)])
        notes.end(QUEUE)


def test_events_of_other_queues_are_not_noted(bench: Bench, make_notes: MakeNotes) -> None:
    notes = make_notes(1)
    notes.begin("rebuild", FIRST)
    with notes.batch(QUEUE):
        notes.begin("rebuild", FIRST)
        assert bench.look(NOTES) == []
        notes.end("rebuild")


def test_an_unreachable_postgres_stops_no_batch() -> None:
    away = Session("postgresql+psycopg2://nobody@127.0.0.1:1/none", application_name="test")
    notes = HandlerNotes(away, UUID(int=1), notes_handlers=True)
    with notes.batch(QUEUE):
        notes.begin(QUEUE, FIRST)
        notes.end(QUEUE)


def test_the_handlers_of_a_batch_are_noted(
    bench: Bench, make_notes: MakeNotes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event has a note while its handlers run in the transaction. At the end, no note is left."""
    end_inside(make_notes(2), FIRST)
    notes = make_notes(1)
    seen: list[tuple[str, int]] = []
    begin, end = notes.begin, notes.end

    def note_begin(queue: str, place: EventPlace) -> None:
        seen.append(("begin", place.offset))
        begin(queue, place)

    def note_end(queue: str) -> None:
        seen.append(("end", len(bench.look(NOTES))))
        end(queue)

    monkeypatch.setattr(notes, "begin", note_begin)
    monkeypatch.setattr(notes, "end", note_end)
    monkeypatch.setattr(main_watch, "journal", notes)
    monkeypatch.setattr(main_watch, "queue", QUEUE)
    with notes.batch(QUEUE):
        assert bench.apply(slice_of([thing_set(0), made(1, "thing.broken"), thing_set(2, key="z")]))
    assert seen == [(what, value) for n in range(3) for what, value in (("begin", n), ("end", 1))]
    assert bench.look(NOTES) == []
