"""The deliveries that the producer reports for the answers of its client, without a broker."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from sluice.db.records import WaitingRow
from sluice.kafka_io import producer as producer_module
from sluice.kafka_io.producer import ConfluentProducer
from sluice.kafka_io.record_types import Delivery, OutgoingRecord
from sluice.runtime.kafka_access import KafkaAccess, setting
from sluice.runtime.settings import read_kafka_security

ROW = WaitingRow("q.0", 1, "", "t", "k", "made", None, "{}", memoryview(b"{}"))
RECORD = OutgoingRecord("t", "k", b"{}", {})


class ScriptedClient:
    """Has one answer for each record. `produce` raises an answer that is an error; `poll` reports others."""

    made: list["ScriptedClient"]
    answers: list[Any]
    answers_at_once = True

    def __init__(self, access: KafkaAccess, settings: dict[str, Any]) -> None:
        self.reports: list[Callable[[], None]] = []
        self.errors = 0  # reported by the next poll, and counted until then
        self.note_error: Callable[[KafkaError], None] = settings["error_cb"]
        self.purged = False
        ScriptedClient.made.append(self)

    def produce(self, *record: Any, on_delivery: Callable[[Any, Any], None], headers: Any) -> None:
        answer = ScriptedClient.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.reports.append(lambda: on_delivery(answer, None))

    def poll(self, timeout_seconds: float) -> None:
        self.errors = 0
        if self.reports and ScriptedClient.answers_at_once:
            self.reports.pop(0)()

    def purge(self) -> None:
        self.purged = True

    def __len__(self) -> int:
        return len(self.reports) + self.errors


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> ConfluentProducer[WaitingRow]:
    ScriptedClient.made = []
    monkeypatch.setattr(producer_module, "build_confluent_producer", ScriptedClient)
    return ConfluentProducer[WaitingRow](KafkaAccess("nowhere:1"))


@pytest.fixture
def deliver(producer: ConfluentProducer[WaitingRow]) -> Callable[..., list[Delivery]]:
    """Returns a function that sends one record per answer, polls after each send, and returns deliveries."""

    def send(*answers: Any, polls: int = 1) -> list[Delivery]:
        ScriptedClient.answers = list(answers)
        found: list[Delivery] = []
        for _ in answers:
            producer.send(ROW, RECORD)
            for _ in range(polls):
                found.extend(delivery for row, delivery, _ in producer.poll(0.0) if row is ROW)
        return found

    return send


@pytest.mark.parametrize(
    ("answer", "delivery"),
    [
        (None, Delivery.ACKNOWLEDGED),
        (KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), Delivery.REFUSED),
        (KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)), Delivery.REFUSED),
        (KafkaError(KafkaError.INVALID_RECORD), Delivery.REFUSED),
        (KafkaError(KafkaError.INVALID_TIMESTAMP), Delivery.AWAY),
        (KafkaError(KafkaError._MSG_TIMED_OUT), Delivery.AWAY),
        (KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), Delivery.AWAY),
        (KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), Delivery.AWAY),
        (KafkaException(KafkaError(KafkaError._FATAL)), Delivery.AWAY),
        (BufferError("queue full"), Delivery.AWAY),
    ],
)
def test_every_delivery_is_reported_one_time(
    deliver: Callable[..., list[Delivery]], answer: Any, delivery: Delivery
) -> None:
    assert deliver(answer, polls=3) == [delivery]


@pytest.mark.parametrize(
    "fatal",
    [
        KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "lost state", True),
        KafkaException(KafkaError(KafkaError._FATAL)),
    ],
)
def test_after_a_fatal_error_a_new_client_sends_the_next_record(
    deliver: Callable[..., list[Delivery]], fatal: Any
) -> None:
    assert deliver(fatal, None, None) == [Delivery.AWAY, Delivery.ACKNOWLEDGED, Delivery.ACKNOWLEDGED]
    assert len(ScriptedClient.made) == 2


def test_a_broken_client_is_kept_until_its_last_answer(
    deliver: Callable[..., list[Delivery]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A record is in flight when the second send fails. The third send follows before any answer.
    fatal = KafkaException(KafkaError(KafkaError._FATAL))
    monkeypatch.setattr(ScriptedClient, "answers_at_once", False)
    assert deliver(None, fatal, fatal, polls=0) == []
    assert deliver(fatal) == [Delivery.AWAY] * 3
    assert len(ScriptedClient.made) == 1
    monkeypatch.setattr(ScriptedClient, "answers_at_once", True)
    assert deliver(None) == [Delivery.ACKNOWLEDGED] * 2
    assert len(ScriptedClient.made) == 2


def test_answers_of_a_closed_client_are_ignored(
    producer: ConfluentProducer[WaitingRow], deliver: Callable[..., list[Delivery]]
) -> None:
    deliver(None, BufferError("queue full"), polls=0)
    (given_up,) = ScriptedClient.made
    producer.close()
    given_up.poll(0.0)
    assert given_up.purged
    assert deliver(KafkaError(KafkaError._MSG_TIMED_OUT)) == [Delivery.AWAY]


def test_a_producer_without_a_token_answers_with_the_reason(
    producer: ConfluentProducer[WaitingRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise KafkaException(KafkaError(KafkaError._AUTHENTICATION, "SLUICE_KAFKA_OAUTH_TOKEN_URL: refused"))

    monkeypatch.setattr(producer_module, "build_confluent_producer", refuse)
    producer.send(ROW, RECORD)
    assert producer.poll(0) == [(ROW, Delivery.AWAY, "SLUICE_KAFKA_OAUTH_TOKEN_URL: refused")]


def test_a_client_whose_login_is_refused_is_replaced_if_its_file_has_changed(
    producer: ConfluentProducer[WaitingRow], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(producer_module, "LOOK_SECONDS", 0)
    file = tmp_path / "password"
    file.write_text("first")
    chosen = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "me"}
    chosen["password_file"] = str(file)
    security = read_kafka_security({setting(name): value for name, value in chosen.items()})
    producer = ConfluentProducer(KafkaAccess("nowhere:1", security))
    timed_out = KafkaError(KafkaError._MSG_TIMED_OUT)

    def send(answer: KafkaError | None) -> int:
        ScriptedClient.answers = [answer]
        producer.send(ROW, RECORD)
        producer.poll(0)
        return len(ScriptedClient.made)

    assert send(None) == 1
    file.write_text("second")
    # The login of an open connection is not refused, so the client stays.
    assert send(None) == 1
    ScriptedClient.made[0].note_error(KafkaError(KafkaError._AUTHENTICATION))
    ScriptedClient.made[0].errors = 1
    assert send(timed_out) == 2
    ScriptedClient.made[1].note_error(KafkaError(KafkaError._AUTHENTICATION))
    assert send(timed_out) == 2
