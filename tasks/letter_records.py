"""Provides the records of dead letters: from Postgres, or from Kafka if the letter is not stored whole."""

from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import msgspec

from sluice.db.apply.dead_letters import Letter
from sluice.db.errors import DeploymentBroken
from sluice.kafka_io.bounded_record import is_whole_of
from sluice.kafka_io.record_types import Record
from sluice.kafka_io.whole_record import ReadWhole, RecordNotRead
from sluice.tasks.api import Topic
from sluice.tasks.events.decode import Decoded, decode
from sluice.tasks.events.flaws import read_flaw
from sluice.tasks.fold.registry import Registry
from sluice.tasks.installation import formats

T = TypeVar("T")

_read_headers = msgspec.json.Decoder(list[tuple[str, str | None]]).decode


class WholeRecordNeeded(Exception):
    """Raised for a letter that is not stored whole. Its record is read while no queue is locked."""

    def __init__(self, letter: Letter) -> None:
        super().__init__(letter.id)
        self.letter = letter


class NotRedrivable(Exception):
    """Raised if a letter is not stored whole and its record cannot be read. The text names the remedy."""


def stored_record(letter: Letter) -> Record:
    """Returns the record that the letter holds."""
    headers = [
        (name, None if value is None else bytes.fromhex(value))
        for name, value in _read_headers(letter.headers)
    ]
    flaw = None if letter.flaw is None else read_flaw(letter.flaw)
    return Record(letter.offset, letter.timestamp_ms, letter.key, letter.value, headers, flaw)


def is_cut(letter: Letter) -> bool:
    """Returns True if only Kafka has the whole record."""
    return letter.flaw is not None and read_flaw(letter.flaw).is_cut


def readable_letters(letters: Sequence[Letter]) -> Sequence[Letter]:
    """Returns the letters before the first letter of a newer format. Raises DeploymentBroken if that is
    first.

    Letters behind a letter of a newer format wait, to keep the order of the entity's letters.
    """
    for number, letter in enumerate(letters):
        if letter.format > formats.NEWEST_FORMAT:
            if number == 0:
                refuse_newer(letter)
            return letters[:number]
    return letters


def refuse_newer(letter: Letter) -> NoReturn:
    """Raises DeploymentBroken for a letter that only newer code can read."""
    raise DeploymentBroken(
        f"dead letter {letter.topic}:{letter.partition}:{letter.offset} is stored in format {letter.format},"
        f" this code reads format {formats.NEWEST_FORMAT}; run the command with the newer code"
    )


class LetterRecords:
    """Returns the records of letters. Reads a record from Kafka if its letter is not stored whole."""

    def __init__(self, read_whole: ReadWhole) -> None:
        self._read_whole = read_whole
        self._whole: tuple[int, Record] | None = None

    def choose(self, letters: Sequence[Letter]) -> Sequence[Letter]:
        """Returns as many of the first letters as one transaction can try.

        A letter that is not stored whole is tried alone, because its record may be as large as Kafka allows.
        Raises WholeRecordNeeded.
        """
        for number, letter in enumerate(letters):
            if is_cut(letter):
                if number:
                    return letters[:number]
                if self._whole is None or self._whole[0] != letter.id:
                    raise WholeRecordNeeded(letter)
                return letters[:1]
        return letters

    def record_of(self, letter: Letter) -> Record:
        """Returns the record of a letter that `choose` returned; the whole record if it was read."""
        if self._whole is not None and self._whole[0] == letter.id:
            return self._whole[1]
        return stored_record(letter)

    def provide(self, attempt: Callable[[], T]) -> T:
        """Returns the result of the attempt. Repeats the attempt for each whole record that it needs.

        Raises NotRedrivable.
        """
        try:
            while True:
                try:
                    return attempt()
                except WholeRecordNeeded as needed:
                    self._whole = (needed.letter.id, self._read(needed.letter))
        finally:
            self._whole = None

    def _read(self, letter: Letter) -> Record:
        where = f"{letter.topic}:{letter.partition}:{letter.offset}"
        instead = f'send the event again, then `sluice dlq drop {letter.id} --reason "…"`'
        try:
            whole = self._read_whole((letter.topic, letter.partition), letter.offset)
        except RecordNotRead as error:
            raise NotRedrivable(
                f"{where} is not stored whole, and the record could not be read: {error}; run the command"
                " again"
            ) from error
        if whole is None:
            raise NotRedrivable(f"{where} is not stored whole, and Kafka no longer has the record; {instead}")
        if not is_whole_of(whole, stored_record(letter)):
            raise NotRedrivable(
                f"{where} is not stored whole, and Kafka has another record there: its time, its key or the"
                f" SHA-256 of its value differs; {instead}"
            )
        return whole


def decode_letter(topic: Topic, letter: Letter) -> Decoded:
    """Returns the stored record, decoded by the current code. Raises DeploymentBroken."""
    if letter.format > formats.NEWEST_FORMAT:
        refuse_newer(letter)
    return decode(topic, letter.topic_id, letter.partition, stored_record(letter))


def topic_of(registry: Registry, letter: Letter) -> Topic:
    """Returns the topic of a letter. Raises DeploymentBroken if no module declares it."""
    topic = registry.topics.get(letter.topic)
    if topic is None:
        raise DeploymentBroken(f"topic {letter.topic} is declared by no module of SLUICE_HANDLERS")
    return topic
