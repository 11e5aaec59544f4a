"""The schema with the tables of one installation: SLUICE_SCHEMA, which is an option of the database's URL.

So it reaches every session of the process, and of its children.
"""

import re
from collections.abc import Mapping
from urllib.parse import unquote

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS
from sqlalchemy.engine import URL

from sluice.runtime.secret_files import DATABASE_URL, add_option

SCHEMA_SETTING = "SLUICE_SCHEMA"
SCHEMA_OPTION = "sluice_schema"
DEFAULT_SCHEMA = "sluice"

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_TAKEN = ("public", "information_schema")
# Words that Postgres reserves and SQLAlchemy does not list, and words that may begin no qualified name.
_MORE_RESERVED = frozenset(
    ("collation", "concurrently", "current_catalog", "fetch", "lateral", "tablesample", "variadic", "window")
)


class SchemaRefused(ValueError):
    """Raised for a name that no schema of Sluice may have. The message has the name and the reason."""


def parse_schema(name: str) -> str:
    """Returns the name if a schema of Sluice may have it. It then needs no quotes. Raises SchemaRefused."""
    if not _NAME.fullmatch(name):
        raise SchemaRefused(
            f"{name!r} is no name of a schema; use 1 to 63 lower-case letters, digits and _, no digit first"
        )
    if name in _TAKEN or name.startswith("pg_"):
        raise SchemaRefused(f"{name!r} is taken: Sluice needs a schema for its own tables only")
    if name in RESERVED_WORDS or name in _MORE_RESERVED:
        raise SchemaRefused(f"{name!r} is a reserved word of SQL; choose another name")
    return name


def schema_of(url: URL) -> str:
    """Returns the schema that the URL of the database names, or the default. Raises SchemaRefused."""
    named = url.query.get(SCHEMA_OPTION, DEFAULT_SCHEMA)
    return parse_schema(named if isinstance(named, str) else ",".join(named))


def named_schema(url: str) -> str | None:
    """Returns the schema that the text of a URL names; None if it names none."""
    options = (option.partition("=") for option in url.partition("?")[2].split("&"))
    return next((unquote(value) for name, _, value in options if name == SCHEMA_OPTION), None)


def with_schema(url: str, schema: str) -> str:
    """Returns the URL with this schema in place of its own. A URL without a schema means the default one."""
    if schema == (named_schema(url) or DEFAULT_SCHEMA):
        return url
    plain, _, query = url.partition("?")
    kept = [one for one in query.split("&") if one and not one.startswith(f"{SCHEMA_OPTION}=")]
    url = f"{plain}?{'&'.join(kept)}" if kept else plain
    return url if schema == DEFAULT_SCHEMA else add_option(url, SCHEMA_OPTION, parse_schema(schema))


def merge_schema(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment in which the URL names the schema, and SLUICE_SCHEMA has its name.

    Raises SchemaRefused if both are given and differ.
    """
    made = dict(environ)
    url, schema = made.get(DATABASE_URL, ""), made.get(SCHEMA_SETTING)
    in_url = named_schema(url)
    if schema is None and in_url is not None:
        made[SCHEMA_SETTING] = in_url
    elif schema is not None and in_url not in (None, schema):
        raise SchemaRefused(f"is {schema!r}, and {DATABASE_URL} has {SCHEMA_OPTION}={in_url}; set only one")
    elif schema not in (None, DEFAULT_SCHEMA, in_url) and url:
        # The setting itself refuses a wrong name.
        made[DATABASE_URL] = add_option(url, SCHEMA_OPTION, schema)
    return made
