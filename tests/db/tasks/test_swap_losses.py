"""Objects that users add to a projection are copied to a new generation, or a refusal names them."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild import generation_changes
from sluice.admin.rebuild.losses import read_plan_refusals, read_swap_losses
from sluice.db.projections import generation_tables
from sluice.db.projections.table_traits import copy_traits
from sluice.stack import Stack
from tests.db.tasks import projecting
from tests.db.tasks.applying import thing_set
from tests.db.tasks.attaching import CASES, DEPENDENTS, Case
from tests.db.tasks.projecting import DECISION, Bench, create
from tests.harness import stacks

bench = projecting.bench
COLUMNS = [column.name for column in projecting.totals.columns]
TENANTS = "SET SESSION app.tenant = 'a'"
OF_TENANT = "thing_id LIKE current_setting('app.tenant') || '%'"


@pytest.fixture(scope="module")
def filled(shared_stack: Stack) -> Iterator[Bench]:
    """Yields a bench whose generation 2 is ready. Each case removes the object that the case attached."""
    shared_stack.start("postgres")
    with stacks.database(shared_stack) as url:
        create(url)
        made = Bench(url)
        made.looking.command(
            "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TABLE public.parent (thing_id varchar(64) NOT NULL); CREATE PUBLICATION p"
        )
        made.live(thing_set(0, "a", 1), thing_set(1, "b", 2))
        assert made.rebuild(made.begin())
        yield made
        made.close()


def losses(bench: Bench) -> list[str]:
    return read_swap_losses(bench.session, bench.generation(2), 1, COLUMNS)


def run(bench: Bench, statement: str, *numbers: int) -> None:
    for number in numbers:
        bench.looking.command(statement.format(t=f"public.totals_g{number}", n=f"totals_g{number}"))


@contextmanager
def attached(bench: Bench, case: Case, *numbers: int) -> Iterator[None]:
    run(bench, case.attach, *numbers)
    try:
        yield
    finally:
        run(bench, case.remove, *numbers)


def refused(bench: Bench, said: str) -> None:
    with pytest.raises(OperationRefused, match=said):
        bench.swap(2)
    assert bench.states() == {1: "live", 2: "ready"}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_object_of_the_live_table_is_copied_or_refused_by_name(filled: Bench, case: Case) -> None:
    with attached(filled, case, 1):
        plan = " ".join(read_plan_refusals(filled.session, "totals", 1, COLUMNS))
        refused(filled, case.swap)
        with filled.session.transaction():
            generation_tables.make_like(filled.session, "totals_g3", "totals_g1")
            copy_traits(filled.session, "totals_g1", "totals_g3")
            third = filled.generation(2)._replace(generation=3)
            carried = not read_swap_losses(filled.session, third, 1, COLUMNS)
            filled.session.command("DROP TABLE public.totals_g3")
        with attached(filled, case, 2):
            assert losses(filled) == [], "both tables have the object"
    assert (plan == "", carried) == (case.plan is None, case.plan is None)
    assert case.plan is None or case.plan in plan
    assert losses(filled) == []


@pytest.mark.parametrize("what", ["row-level security", "policy", "trigger", "rule", "grant"])
def test_an_object_of_the_new_table_that_affects_readers_is_refused_by_name(filled: Bench, what: str) -> None:
    with attached(filled, CASES[what], 2):
        refused(filled, "totals_g2 has the .*, and totals_g1 does not: remove that from totals_g2")


def test_an_index_that_only_the_new_table_has_does_not_prevent_a_swap(filled: Bench) -> None:
    with attached(filled, CASES["index"], 2):
        assert losses(filled) == []


@pytest.mark.parametrize("case", DEPENDENTS.values(), ids=DEPENDENTS)
def test_an_object_that_depends_on_the_live_table_is_refused_by_name(filled: Bench, case: Case) -> None:
    with attached(filled, case, 1):
        assert read_plan_refusals(filled.session, "totals", 1, COLUMNS)
        refused(filled, case.swap)
    assert losses(filled) == []


ON_THE_VIEW = """
    COMMENT ON VIEW public.totals IS 'sums of things';
    COMMENT ON COLUMN public.totals.amount IS 'in cents';
    ALTER VIEW public.totals ALTER COLUMN seen SET DEFAULT 0;
    ALTER VIEW public.totals SET (security_invoker = true, security_barrier = true, check_option = local);
    CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER instead INSTEAD OF DELETE ON public.totals
        FOR EACH ROW EXECUTE FUNCTION public.nothing();
    CREATE VIEW public.over AS SELECT sum(amount) AS amount FROM public.totals;
    CREATE FUNCTION public.over() RETURNS numeric BEGIN ATOMIC SELECT sum(amount) FROM public.totals; END;
    GRANT SELECT ON public.totals TO {role}; GRANT INSERT (amount) ON public.totals TO {role};
    GRANT SELECT ON public.totals_g1 TO {role};
    COMMENT ON TABLE public.totals_g1 IS 'rows of totals'
"""
CATALOGUE = """
    SELECT c.relkind::text, c.reloptions, c.relowner, obj_description(c.oid, 'pg_class'), c.relacl::text,
        (SELECT array_agg((a.attname, a.attacl, a.atthasdef, col_description(c.oid, a.attnum))::text)
         FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
        (SELECT array_agg(tgname::text) FROM pg_trigger WHERE tgrelid = c.oid)
    FROM pg_class c WHERE c.oid = to_regclass('{name}')
"""


def test_a_reader_under_row_level_security_sees_the_same_rows_after_a_swap_and_a_swap_back(
    bench: Bench,
) -> None:
    """The new table has the grants of the old table, although default privileges would grant more."""
    role = f"reader_{bench.look('SELECT current_database()')[0][0]}"
    bench.live(*(thing_set(n, f"{'ab'[n % 2]}{n}", n) for n in range(20)))
    bench.looking.command(f"CREATE ROLE {role} LOGIN; {ON_THE_VIEW.format(role=role)}")
    bench.looking.command("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC")
    number = bench.begin()
    assert bench.rebuild(number)
    policy = f"CREATE POLICY p ON {{t}} USING ({OF_TENANT}); ALTER TABLE {{t}} ENABLE ROW LEVEL SECURITY"
    run(bench, policy, 1)
    url = make_url(bench.database_url)
    reader = psycopg2.connect(host=url.host, port=url.port, user=role, dbname=url.database)
    reader.autocommit = True
    with reader.cursor() as cursor:
        cursor.execute(TENANTS)

    def seen() -> list[object]:
        live = "totals_g1" if bench.states()[1] == "live" else f"totals_g{number}"
        with reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM public.totals")
            rows = cursor.fetchone()
        over = bench.look("SELECT amount, public.over() FROM public.over")
        return [rows, over, *(bench.look(CATALOGUE.format(name=name)) for name in ("totals", live))]

    before = seen()
    assert before[0] == (10,)
    refused(bench, "the policy p for all to PUBLIC")
    assert seen() == before
    run(bench, policy, number)
    bench.swap(number)
    assert bench.states()[number] == "live"
    assert seen() == before
    bench.swap(1)
    assert seen() == before
    reader.close()
    bench.looking.command(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_retired_generation_is_dropped_only_if_the_live_generation_has_its_objects(bench: Bench) -> None:
    number = bench.begin()
    assert bench.rebuild(number)
    bench.swap(number)
    said = r"the policy p .*, and totals_g2 does not: add that to"
    with attached(bench, CASES["policy"], 1), pytest.raises(OperationRefused, match=said):
        generation_changes.drop(bench.session, bench.generation(1), DECISION)
    run(bench, CASES["index"].attach, 1)
    generation_changes.drop(bench.session, bench.generation(1), DECISION)
    assert bench.states() == {number: "live"}


def test_a_new_generation_belongs_to_the_owner_of_the_live_generation(bench: Bench) -> None:
    role = f"owner_{bench.look('SELECT current_database()')[0][0]}"
    bench.looking.command(
        f"CREATE ROLE {role}; GRANT ALL ON SCHEMA public TO {role};"
        f"ALTER TABLE public.totals_g1 OWNER TO {role}; ALTER VIEW public.totals OWNER TO {role};"
        "GRANT SELECT ON public.totals_g1 TO PUBLIC"
    )
    number = bench.begin()
    assert bench.rebuild(number)
    bench.swap(number)
    owners = "SELECT relowner::regrole::text, relacl::text FROM pg_class WHERE relname ~ '^totals_g.$'"
    assert bench.look(owners) == [(role, f"{{{role}=arwdDxt/{role},=r/{role}}}")] * 2
    bench.looking.command(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")
