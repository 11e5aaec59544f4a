"""Translates SQL to the schema of an installation. Pure.

All SQL of this code is written for the schema `sluice`, with the schema before each name. Sessions translate
it just before they send it. So a reader finds a table by its written name, and `search_path` decides nothing.
"""

import re
from functools import lru_cache

from sluice.db.advisory_locks import WRITTEN, LockPurpose, lock_name

# The alternatives before the last two are passed over: comments, quoted names, and most texts.
_TOKEN = re.compile(
    rf"""
      --[^\n]*
    | "(?:[^"]|"")*"
    | '(?:[^']|'')*'
    | (?<![\w.$]){WRITTEN}(?=\.[a-z])
    | (?<=\bSCHEMA\ ){WRITTEN}\b
    """,
    re.VERBOSE,
)
_NAME_IN_TEXT = re.compile(rf"'{WRITTEN}(\.[a-z_][a-z0-9_]*)'")
_LOCKS = {lock_name(WRITTEN, purpose): purpose for purpose in LockPurpose}


def in_schema(sql: str, schema: str) -> str:
    """Returns the SQL for this schema: names of objects, also in texts such as 'sluice.name', and locks.

    Quoted names, comments and other texts stay as they are.
    """
    return sql if schema == WRITTEN or WRITTEN not in sql else _translated(sql, schema)


# More than the statements of all sessions of a process.
@lru_cache(maxsize=4096)
def _translated(sql: str, schema: str) -> str:
    def replace(token: re.Match[str]) -> str:
        found = token[0]
        if found == WRITTEN:
            return schema
        if not found.startswith("'"):
            return found
        if name := _NAME_IN_TEXT.fullmatch(found):
            return f"'{schema}{name[1]}'"
        inner = found[1:-1]
        if (purpose := _LOCKS.get(inner.rstrip(" "))) is not None:
            return f"'{lock_name(schema, purpose)}{inner[len(inner.rstrip(' ')) :]}'"
        return found

    return _TOKEN.sub(replace, sql)
