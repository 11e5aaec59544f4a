"""The traceback that a dead letter keeps and `sluice dlq show` prints, and the line that is logged."""

import json

import pytest
from structlog.testing import capture_logs

from sluice.kafka_io.record_types import Record
from tests.db.tasks import applying, failing
from tests.db.tasks.applying import TOPIC, Bench, made, slice_of, thing_set
from tests.db.tasks.failing import WHY, Run

bench = applying.bench
session, redriver, run = failing.session, failing.redriver, failing.run

SECRET = "a customer's data"
BROKEN = "tests.db.tasks.applying.break_thing"
SET, ADD = "tests.db.tasks.applying.set_thing", "tests.db.tasks.applying.add_part"
FILE = "tests/db/tasks/applying.py"


@pytest.mark.parametrize(
    ("record", "handler", "frames"),
    [
        pytest.param(made(0, "thing.broken", note=SECRET), BROKEN, ["break_thing"], id="the handler raises"),
        pytest.param(
            made(0, "part.added", note=SECRET), ADD, ["add_part"], id="a key of the data is missing"
        ),
        pytest.param(
            made(0, "part.added", thing_id="x" * 65), ADD, ["add_part"], id="it yields a refused effect"
        ),
        pytest.param(thing_set(0, amount=-1, note=SECRET), SET, None, id="Postgres refuses the row"),
        pytest.param(made(0, "thing.set", note=SECRET), SET, None, id="the data is of another type"),
        pytest.param(made(0, "thing.unknown"), None, None, id="there is no handler"),
        pytest.param(Record(0, 1, b"k", b"{", []), None, None, id="the value is not JSON"),
    ],
)
def test_a_dead_event_is_logged_in_one_line_and_its_letter_keeps_the_handler_frames(
    record: Record, handler: str | None, frames: list[str] | None, bench: Bench, run: Run
) -> None:
    with capture_logs() as lines:
        bench.apply(slice_of([record]))
    [line] = [line for line in lines if line["event"] == "event died"]
    assert (line.get("handler"), line.get("file")) == (handler, handler and FILE)
    assert line["record"] == f"{TOPIC}:0:0"
    [(traceback,)] = bench.look("SELECT traceback FROM sluice.dead_letters")
    shown = run("dlq", "show", "1")
    if frames is None:
        assert traceback is None
        assert "traceback" not in json.loads(run("dlq", "show", "1", "--json"))
        assert "Traceback" not in shown
        return
    assert [text.rpartition(" in ")[2] for text in traceback.splitlines() if "File " in text] == frames
    assert f'"{FILE}", line {line["line"]}, in {frames[-1]}' in traceback
    assert SECRET not in traceback
    assert traceback in shown
    assert json.loads(run("dlq", "show", "1", "--json"))["traceback"] == traceback


def test_a_redrive_replaces_the_traceback(bench: Bench, run: Run) -> None:
    bench.apply(slice_of([made(0, "thing.broken")]))
    bench.look("UPDATE sluice.dead_letters SET traceback = 'from an earlier handler'")
    shown = run("dlq", "redrive", "1", *WHY, "--yes", exit_code=1)
    assert f"RuntimeError: a fault in the handler (in {BROKEN} at {FILE}:" in shown
    [(traceback,)] = bench.look("SELECT traceback FROM sluice.dead_letters")
    assert "in break_thing" in traceback
    bench.look("UPDATE sluice.dead_letters SET value = NULL, traceback = 'from an earlier handler'")
    run("dlq", "redrive", "1", *WHY, "--yes", exit_code=1)
    assert bench.look("SELECT traceback FROM sluice.dead_letters") == [(None,)]
