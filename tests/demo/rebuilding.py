"""Scenario 5, with 6: a projection that was computed wrongly, computed anew beside the live one."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from examples.shop import tables
from examples.shop.before_the_fix import WRONG_TAX_PERCENT
from examples.shop.generate import OutgoingRecord, generate
from examples.shop.handlers.billing import TAX_PERCENT, line_item
from examples.shop.handlers.payments import PaymentReceived
from sluice.db.admin.totals import read_effect_keys
from sluice.db.projections.generations import read_generations
from sluice.tasks.fold.registry import collect_handlers
from tests.demo.scenarios import FAULT_DEADLINE_SECONDS, PAYMENTS, Say
from tests.demo.verdict import ScenarioResult
from tests.harness.deployment import Deployment
from tests.harness.local_run import RunningProcess
from tests.harness.providers import Providers
from tests.harness.readers import Readers

FIXED = "examples.shop.handlers"
NAME = tables.billing_line_items.name
LATER = 2_000  # payments that come while the new generation is built
READ = 100  # lines that somebody reads all the while
WHY = ("--reason", "the tax was wrong")


def play_5(deployment: Deployment, providers: Providers, say: Say) -> Iterator[ScenarioResult]:
    """The fix is deployed, the projection rebuilt while payments come, compared, swapped, swapped back."""
    say("5: the corrected tax is deployed: from now on new payments have it, the old lines do not")
    deployment.run.stop_all()
    deployment.run.handlers, deployment.registry = FIXED, collect_handlers(FIXED)
    _start(deployment)
    left = _left(deployment, providers)
    old = list(generate("payments", count=PAYMENTS, seed=1))
    changed = sum(_line(payment, WRONG_TAX_PERCENT) != _line(payment, TAX_PERCENT) for payment in old)
    sample = old[:READ]
    keys = ", ".join(f"'{payment.key}'" for payment in sample)
    readers = Readers(
        deployment.urls.database_url,
        f"SELECT payment_id, tax_cents FROM public.{NAME} WHERE payment_id IN ({keys})",
        {
            "wrong": {p.key: _line(p, WRONG_TAX_PERCENT)["tax_cents"] for p in sample},
            "right": {p.key: _line(p, TAX_PERCENT)["tax_cents"] for p in sample},
        },
    )
    with readers:
        say("5: a rebuild worker is killed in the middle; payments go on")
        doomed = deployment.run.start_rebuilds(name="rebuild-doomed", faults="rebuild.before_commit:12:kill")
        _rebuild(deployment, "start", "--no-wait", *WHY)
        deployment.produce(_later_payments())
        yield _killed(deployment, doomed)
        deployment.run.start_rebuilds()
        deployment.wait_until(
            lambda: _state(deployment, 2) == "ready",
            timeout_seconds=FAULT_DEADLINE_SECONDS,
            what="the new generation has met live traffic",
        )
        deployment.wait_settled()
        refused = _refused(deployment, "swap", "--yes", *WHY)
        yield ScenarioResult("5", "a swap without a report", True, "it was never compared" in refused)
        report = _rebuild(deployment, "diff")
        yield ScenarioResult(
            "5", "rows the report lists: those the fix changes", changed, report["rows"]["differing"]
        )
        yield ScenarioResult(
            "5", "rows that only one of both has", 0, report["rows"]["only_live"] + report["rows"]["only_new"]
        )
        say("5: approved, swapped, swapped back, and swapped again")
        _rebuild(deployment, "approve", "--yes", *WHY)
        for back in ((), ("--back",), ("--back",)):
            _rebuild(deployment, "swap", "--yes", *back, *WHY)
            deployment.wait_until(
                lambda: readers.seen[-1] == ("right" if _live(deployment) == 2 else "wrong"),
                timeout_seconds=FAULT_DEADLINE_SECONDS,
                what="the reader has looked",
            )
    seen = ["wrong", "right", "wrong", "right"]
    yield ScenarioResult(
        "5", f"what a reader saw of {READ} old lines, in {readers.looks:,} looks", seen, readers.seen
    )
    lines = deployment.rows(tables.billing_line_items)
    everything = {p.key: _line(p, TAX_PERCENT) for p in [*old, *_later_payments()]}
    yield ScenarioResult(
        "5", "every line has the right tax, also those written meanwhile", True, lines == everything
    )
    yield ScenarioResult(
        "6", "captures, calls and events, before the rebuild and after", left, _left(deployment, providers)
    )


def _start(deployment: Deployment) -> None:
    run = deployment.run
    run.start_bridge()
    run.start_worker(name="worker-1")
    run.start_worker(name="worker-2")
    run.start_relay(name="relay-1")
    run.start_beat(name="beat-1")


def _later_payments() -> list[OutgoingRecord]:
    later = generate("payments", count=LATER, seed=9)
    return [record._replace(key=f"later-{record.key}") for record in later]


def _line(payment: OutgoingRecord, percent: int) -> dict[str, Any]:
    assert payment.value is not None
    return dict(line_item(PaymentReceived(**payment.value["data"]), percent))


def _left(deployment: Deployment, providers: Providers) -> tuple[int, int, int]:
    """Captures at the provider, calls in the ledger, events emitted."""
    return (
        len(providers.payments.captures()),
        len(read_effect_keys(deployment.session)),
        len(deployment.sent()),
    )


def _rebuild(deployment: Deployment, verb: str, *words: str) -> Any:
    return json.loads(deployment.run.run_sluice("rebuild", verb, NAME, "--json", *words))


def _refused(deployment: Deployment, verb: str, *words: str) -> str:
    try:
        deployment.run.run_sluice("rebuild", verb, NAME, *words)
    except subprocess.CalledProcessError as error:
        return str(error.stderr)
    return "done"


def _state(deployment: Deployment, number: int) -> str | None:
    found = {one.generation: one.state for one in read_generations(deployment.session, NAME)}
    return found.get(number)


def _live(deployment: Deployment) -> int:
    return next(one.generation for one in read_generations(deployment.session, NAME) if one.state == "live")


def _killed(deployment: Deployment, doomed: RunningProcess) -> ScenarioResult:
    deployment.wait_until(
        lambda: doomed.exit_code is not None,
        timeout_seconds=FAULT_DEADLINE_SECONDS,
        what="the fault point kills the rebuild worker",
    )
    return ScenarioResult("5", "kill -9 of the rebuild worker in the middle of a chunk", -9, doomed.exit_code)
