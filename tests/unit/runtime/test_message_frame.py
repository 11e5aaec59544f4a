"""Only a process with the key can sign a message, and a change of any byte is detected."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from sluice.runtime.message_frame import MAC_BYTES, Frame, open_frame, seal

_keys = st.binary(min_size=32, max_size=32)
_frames = st.builds(Frame, st.integers(1, 255), st.uuids(), st.binary(max_size=200))


@given(_keys, _frames)
def test_a_sealed_frame_is_opened_unchanged(key: bytes, frame: Frame) -> None:
    assert open_frame([key], seal(key, frame)) == frame


@given(st.lists(_keys, min_size=2, max_size=4, unique=True), _frames, st.data())
def test_a_frame_is_opened_if_any_of_the_keys_fits(
    keys: list[bytes], frame: Frame, data: st.DataObject
) -> None:
    assert open_frame(keys, seal(data.draw(st.sampled_from(keys)), frame)) == frame


@given(_keys, _keys, _frames)
def test_a_frame_is_not_opened_with_another_key(key: bytes, other: bytes, frame: Frame) -> None:
    assert key == other or open_frame([other], seal(key, frame)) is None


@given(_keys, _frames, st.data())
def test_a_message_with_a_changed_byte_is_refused(key: bytes, frame: Frame, data: st.DataObject) -> None:
    message = bytearray(seal(key, frame))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] ^= data.draw(st.integers(1, 255))
    assert open_frame([key], bytes(message)) is None


@given(_keys, _frames, st.data())
def test_a_shortened_or_extended_message_is_refused(key: bytes, frame: Frame, data: st.DataObject) -> None:
    message = seal(key, frame)
    assert open_frame([key], message[: data.draw(st.integers(0, len(message) - 1))]) is None
    assert open_frame([key], message + data.draw(st.binary(min_size=1, max_size=9))) is None


def test_the_positions_of_mac_and_version_are_the_same_in_every_format() -> None:
    key, frame = b"k" * 32, Frame(7, UUID(int=5), b"content")
    message = seal(key, frame)
    assert MAC_BYTES == 32
    assert message[32:] == b"\x07" + UUID(int=5).bytes + b"content"
