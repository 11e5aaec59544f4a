"""The settings that every session of Sluice has, whatever the server, the database and the role say. Pure."""

from collections.abc import Mapping

# Settings that decide what a text or a statement means, and limits that would end a statement or a session.
MEANINGS = {
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "search_path": "public",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
# Settings that older servers do not have, with the version that introduced them.
NEWER = {"idle_session_timeout": 140_000, "transaction_timeout": 170_000}


def setting_commands(settings: Mapping[str, str], server_version: int) -> str:
    """Returns the commands that make the settings, in one text: they need one round trip."""
    newer = {name: "0" for name, version in NEWER.items() if server_version >= version}
    wanted = {**MEANINGS, **newer, **settings}
    return "; ".join(f"SET {name} = '{value}'" for name, value in wanted.items())
