"""Tests how a log line shows values."""

import io
import sys

import pytest
import structlog

from sluice.runtime.logs import configure_logs, show_values


def test_texts_are_escaped_and_a_traceback_keeps_its_lines() -> None:
    fields = {"event": "a\nb", "key": "\x1b[2J", "count": 7, "exception": "Traceback:\n  \x1b[2J"}
    assert show_values(None, "info", fields) == {
        "event": r"a\nb",
        "key": r"\x1b[2J",
        "count": 7,
        "exception": "Traceback:\n  " + r"\x1b[2J",
    }


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_log_format_writes_characters_that_a_terminal_interprets(
    monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    before = structlog.get_config()
    try:
        configure_logs(log_format=log_format, level="info", process="test")
        structlog.get_logger("test").info("event failed", key="a\x07\u202eb", keys=["\x1b[2J"])
    finally:
        structlog.configure(**before)
        structlog.contextvars.clear_contextvars()
    assert "event failed" in output.getvalue()
    # Colours are not written either, because the output is not a terminal.
    assert [one for one in ("\x07", "\u202e", "\x1b") if one in output.getvalue()] == []
