"""Tests which traits of a table or a view (grants, triggers, …) a rebuild, a swap or a drop would lose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.admin.rebuild.carry_over import (
    NOT_CARRIED,
    SHOWN_TO_READERS,
    carry_over_refusals,
    drop_losses,
    swap_differences,
    view_refusals,
)
from sluice.db.projections.generation_tables import TableFacts
from sluice.db.projections.table_traits import Trait

KINDS = sorted(SHOWN_TO_READERS | {"index", "comment", "column"})
traits = st.frozensets(st.builds(Trait, st.sampled_from(KINDS), st.sampled_from(["a1", "b2", "c3"])))


@given(traits, traits)
def test_a_swap_names_each_trait_that_readers_would_lose_or_gain(
    live: frozenset[Trait], new: frozenset[Trait]
) -> None:
    messages = list(swap_differences("t_g1", live, "t_g2", new))
    for trait in sorted(live | new):
        lost = trait in live - new
        gained = trait in new - live and trait.kind in SHOWN_TO_READERS
        start = f"{'t_g1' if lost else 't_g2'} has the {trait.kind} "
        assert any(one.startswith(start) and trait.what in one for one in messages) == (lost or gained)
    assert bool(messages) == bool(live - new or {one for one in new - live if one.kind in SHOWN_TO_READERS})


@given(traits)
def test_a_rebuild_and_a_drop_name_each_kind_of_trait_that_is_not_carried_over(
    live: frozenset[Trait],
) -> None:
    refused = {one.kind for one in live} & NOT_CARRIED
    assert len(list(carry_over_refusals("t_g1", live))) == len(refused)
    assert len(list(drop_losses("t_g1", live, "t_g2", frozenset()))) == len(refused)
    assert not list(drop_losses("t_g1", live, "t_g2", live))


def test_traits_of_the_same_kind_share_one_line() -> None:
    grants = {Trait("grant", "SELECT to a"), Trait("grant", "SELECT to b")}
    both = grants | {Trait("policy", "p using (a\n > 3)")}
    text = "t_g1 has the {}, and t_g2 does not: add that to t_g2, or remove it from t_g1"
    assert list(swap_differences("t_g1", both, "t_g2", set())) == [
        text.format("grant SELECT to a, SELECT to b"),
        text.format("policy p using (a > 3)"),
    ]


COLUMNS = ("id", "Big one", "version")
PLAIN = ' SELECT id,\n    "Big one",\n    version\n   FROM {};'


@pytest.mark.parametrize(
    ("definition", "is_plain"),
    [
        (PLAIN.format("t_g3"), True),
        (' SELECT t_g3.id,\n    t_g3."Big one",\n    t_g3.version\n   FROM t_g3;', True),
        (PLAIN.format("t_g2"), False),
        (PLAIN.format("t_g33"), False),
        (PLAIN.format("ONLY t_g3"), False),
        (PLAIN.format("other.t_g3"), False),
        (PLAIN.format("t_g3\n  WHERE version > 3"), False),
        (PLAIN.format("t_g3\n LIMIT 10"), False),
        (PLAIN.format("t_g3").replace("version\n", "0 AS version\n"), False),
        (PLAIN.format("t_g3").replace("version\n", "id AS version\n"), False),
    ],
)
def test_a_view_that_does_more_than_select_the_columns_is_refused(definition: str, is_plain: bool) -> None:
    view = TableFacts("view", "sluice", dict.fromkeys(COLUMNS, "text"), (), (), 0, 0, definition=definition)
    messages = list(view_refusals("t", 3, COLUMNS, view))
    assert len(messages) == (not is_plain)
    assert is_plain or "the view t does not just select the columns of t_g3" in messages[0]


def test_a_view_that_belongs_to_another_role_is_refused() -> None:
    view = TableFacts("view", "dba", dict.fromkeys(COLUMNS, "text"), (), (), 0, 0, is_owned=False)
    assert "belongs to the role dba, and the role of this command is not a member" in next(
        view_refusals("t", 3, COLUMNS, view)
    )
