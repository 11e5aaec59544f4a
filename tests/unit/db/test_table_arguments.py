"""If an argument of entity_table or projection_table has a wrong type, the error names the expected type."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from sluice.db.tables import TableRefused, entity_table, projection_table

WRONG_ARGUMENTS: list[tuple[Any, dict[str, Any], str]] = [
    ("boxes", {}, "the second argument must be a MetaData, as in metadata = MetaData\\(\\), not str 'boxes'"),
    (Column("a", Integer), {}, "the second argument must be a MetaData"),
    (
        MetaData(),
        {"counters": "visits"},
        r"counters= must be a tuple .* counters=\('visits',\), not 'visits'",
    ),
    (MetaData(), {"counters": (Column("a", Integer),)}, "counters= must be a tuple of column names"),
    (MetaData(), {"counters": None}, "counters= must be a tuple of column names"),
    (MetaData(), {"merged": "no"}, "merged= must be True or False, not 'no'"),
    (MetaData(), {"deletable": 0}, "deletable= must be True or False, not 0"),
]


@pytest.mark.parametrize(
    ("metadata", "options", "text"), WRONG_ARGUMENTS, ids=[case[2][:30] for case in WRONG_ARGUMENTS]
)
@pytest.mark.parametrize("make_table", [entity_table, projection_table])
def test_an_argument_of_a_wrong_type_is_refused(
    make_table: Callable[..., Table], metadata: Any, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(TableRefused, match=f"table boxes: {text}"):
        make_table("boxes", metadata, Column("id", String, primary_key=True), **options)
