"""A bridge that runs finds why the brokers refuse it, and continues when the cause is mended."""

import threading
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from sluice.bridge.login_watch import LoginWatch
from tests.waiting import wait_until

REFUSAL = "SLUICE_KAFKA_USERNAME, SLUICE_KAFKA_PASSWORD: broker:9093 refuses this user and password"


class Brokers:
    """Brokers that refuse the login, accept it, or do not answer."""

    def __init__(self) -> None:
        self.answer: str | Exception | None = REFUSAL
        self.logins = 0
        self._counted = threading.Condition()

    def find_refusal(self) -> str | None:
        with self._counted:
            self.logins += 1
            self._counted.notify_all()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def wait_logins(self, more: int) -> None:
        with self._counted:
            wanted = self.logins + more
            assert self._counted.wait_for(lambda: self.logins >= wanted, timeout=60)


@pytest.fixture
def brokers() -> Brokers:
    return Brokers()


@pytest.fixture
def watch(brokers: Brokers) -> Iterator[LoginWatch]:
    made = LoginWatch(brokers.find_refusal, pause_seconds=0.01)
    made.start()
    yield made
    made.stop()


def test_without_a_suspicion_no_login_is_tried(watch: LoginWatch, brokers: Brokers) -> None:
    watch.stop()
    assert (watch.refusal, brokers.logins) == ("", 0)


def test_a_refused_login_is_tried_until_the_brokers_accept_it_and_logged_one_time(brokers: Brokers) -> None:
    with capture_logs() as lines:
        watch = LoginWatch(brokers.find_refusal, pause_seconds=0.01)
        watch.start()
        watch.suspect()
        # No further suspicion is needed: the client may report an error only once.
        brokers.wait_logins(5)
        assert watch.refusal == REFUSAL
        brokers.answer = None
        wait_until(lambda: not watch.refusal, timeout_seconds=60, what="the login is accepted")
        watch.stop()
    assert [(line["event"], line.get("reason")) for line in lines] == [
        ("Kafka refuses this bridge; the bridge retries", REFUSAL),
        ("Kafka no longer refuses this bridge", None),
    ]


def test_a_refusal_that_is_found_only_one_time_is_not_reported() -> None:
    answers: list[str | None] = [REFUSAL, None]
    with capture_logs() as lines:
        watch = LoginWatch(lambda: answers.pop(0), pause_seconds=0.01)
        watch.start()
        watch.suspect()
        wait_until(lambda: not answers, timeout_seconds=60, what="the login is tried twice")
        watch.stop()
    assert (watch.refusal, lines) == ("", [])


def test_the_thread_continues_after_an_error(watch: LoginWatch, brokers: Brokers) -> None:
    brokers.answer = OSError("no file descriptors")
    watch.suspect()
    wait_until(lambda: brokers.logins > 0, timeout_seconds=60, what="a login is tried")
    brokers.answer = REFUSAL
    watch.suspect()
    wait_until(lambda: watch.refusal == REFUSAL, timeout_seconds=60, what="the refusal is found")


def test_a_new_client_is_made_once_when_the_brokers_accept_changed_files(brokers: Brokers) -> None:
    watch = LoginWatch(brokers.find_refusal, have_files_changed=lambda: True, pause_seconds=0.01)
    watch.start()
    watch.suspect()
    wait_until(lambda: watch.refusal == REFUSAL, timeout_seconds=60, what="the refusal is found")
    brokers.wait_logins(3)
    assert not watch.take_renewal()
    brokers.answer = None
    wait_until(watch.take_renewal, timeout_seconds=60, what="a new client is needed")
    watch.stop()
    assert not watch.take_renewal()


def test_unchanged_files_need_no_new_client(watch: LoginWatch, brokers: Brokers) -> None:
    brokers.answer = None
    watch.suspect()
    brokers.wait_logins(1)
    watch.stop()
    assert not watch.take_renewal()
