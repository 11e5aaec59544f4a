"""Objects that users add to the table or view of a projection, and the refusals that name these objects."""

from typing import NamedTuple


class Case(NamedTuple):
    """The SQL that adds an object to the table {t}, the SQL that removes the object, and the refusals."""

    attach: str
    remove: str
    swap: str
    plan: str | None = None
    """None if `rebuild start` copies the object to the new generation."""


CASES = {
    "row-level security": Case(
        "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY", "ALTER TABLE {t} DISABLE ROW LEVEL SECURITY",
        "the row-level security enabled", "the row-level security enabled",
    ),
    "forced row-level security": Case(
        "ALTER TABLE {t} FORCE ROW LEVEL SECURITY", "ALTER TABLE {t} NO FORCE ROW LEVEL SECURITY",
        "the row-level security forced on the owner", "the row-level security forced on the owner",
    ),
    "policy": Case(
        "CREATE POLICY p ON {t} FOR SELECT USING (amount > 3)", "DROP POLICY p ON {t}",
        r"the policy p for select to PUBLIC using \(\(amount > 3\)\)", "the policy p",
    ),
    "restrictive policy of roles": Case(
        "CREATE POLICY p ON {t} AS RESTRICTIVE FOR INSERT TO CURRENT_USER WITH CHECK (true)",
        "DROP POLICY p ON {t}", r"p as restrictive for insert to app with check \(true\)", "the policy p",
    ),
    "trigger": Case(
        "CREATE TRIGGER t AFTER TRUNCATE ON {t} EXECUTE FUNCTION public.nothing()", "DROP TRIGGER t ON {t}",
        "the trigger t executing nothing", "totals_g1 has the trigger t, which a rebuild would fire",
    ),
    "rule": Case(
        "CREATE RULE r AS ON DELETE TO {t} DO ALSO NOTIFY deleted", "DROP RULE r ON {t}", "the rule r",
        "the rule r",
    ),
    "publication": Case(
        "ALTER PUBLICATION p ADD TABLE {t}", "ALTER PUBLICATION p DROP TABLE {t}", "the publication p",
        "the publication p",
    ),
    "foreign key": Case(
        "ALTER TABLE {t} ADD CONSTRAINT f FOREIGN KEY (thing_id) REFERENCES public.things NOT VALID",
        "ALTER TABLE {t} DROP CONSTRAINT f", r"the foreign key FOREIGN KEY \(thing_id\)", "the foreign key",
    ),
    "inheritance": Case(
        "ALTER TABLE {t} INHERIT public.parent", "ALTER TABLE {t} NO INHERIT public.parent",
        "the inheritance from parent", "the inheritance from parent",
    ),
    "replica identity by an index": Case(
        "ALTER TABLE {t} REPLICA IDENTITY USING INDEX {n}_pkey", "ALTER TABLE {t} REPLICA IDENTITY DEFAULT",
        "the replica identity an index", "the replica identity an index",
    ),
    "full replica identity": Case(
        "ALTER TABLE {t} REPLICA IDENTITY FULL", "ALTER TABLE {t} REPLICA IDENTITY DEFAULT",
        "the replica identity full",
    ),
    "grant": Case(
        "GRANT SELECT ON {t} TO PUBLIC", "REVOKE SELECT ON {t} FROM PUBLIC", "the grant SELECT to PUBLIC"
    ),
    "grant of a column": Case(
        "GRANT UPDATE (amount) ON {t} TO PUBLIC", "REVOKE UPDATE (amount) ON {t} FROM PUBLIC",
        r"the grant UPDATE \(amount\) to PUBLIC",
    ),
    "right revoked from the owner": Case(
        "REVOKE DELETE ON {t} FROM CURRENT_USER", "GRANT DELETE ON {t} TO CURRENT_USER",
        "totals_g2 has the grant DELETE to app, and totals_g1 does not",
    ),
    "comment": Case("COMMENT ON TABLE {t} IS 'it''s'", "COMMENT ON TABLE {t} IS NULL", "the comment it's"),
    "comment on a column": Case(
        "COMMENT ON COLUMN {t}.amount IS 'in cents'", "COMMENT ON COLUMN {t}.amount IS NULL",
        "the comment amount: in cents",
    ),
    "index": Case(
        "CREATE INDEX {n}_i ON {t} (amount) WHERE amount > 5", "DROP INDEX public.{n}_i",
        r"the index USING btree \(amount\) WHERE \(amount > 5\)",
    ),
    "unique constraint": Case(
        "ALTER TABLE {t} ADD CONSTRAINT {n}_u UNIQUE (thing_id, seen)",
        "ALTER TABLE {t} DROP CONSTRAINT {n}_u",
        r"the constraint UNIQUE \(thing_id, seen\)",
    ),
    "check constraint": Case(
        "ALTER TABLE {t} ADD CONSTRAINT c CHECK (seen > 0) NOT VALID", "ALTER TABLE {t} DROP CONSTRAINT c",
        r"the constraint CHECK \(\(seen > 0\)\)",
    ),
    "column default": Case(
        "ALTER TABLE {t} ALTER seen SET DEFAULT 7", "ALTER TABLE {t} ALTER seen DROP DEFAULT",
        "the column seen bigint default '?7'?(::bigint)? not null",
    ),
    "not-null constraint": Case(
        "ALTER TABLE {t} ALTER version SET NOT NULL", "ALTER TABLE {t} ALTER version DROP NOT NULL",
        "the column version bigint not null",
    ),
    "extended statistics": Case(
        "CREATE STATISTICS public.{n}_s ON amount, seen FROM {t}", "DROP STATISTICS public.{n}_s",
        "the extended statistics amount, seen",
    ),
    "statistics target": Case(
        "ALTER TABLE {t} ALTER amount SET STATISTICS 500, ALTER amount SET (n_distinct = 3)",
        "ALTER TABLE {t} ALTER amount SET STATISTICS -1, ALTER amount RESET (n_distinct)",
        "the storage parameter n_distinct=3 of column amount, statistics 500 of column amount",
    ),
    "storage parameters": Case(
        "ALTER TABLE {t} SET (fillfactor = 70, autovacuum_enabled = false)",
        "ALTER TABLE {t} RESET (fillfactor, autovacuum_enabled)",
        "the storage parameter autovacuum_enabled=false, fillfactor=70",
    ),
}  # fmt: skip

DEPENDENTS = {
    "view": Case("CREATE VIEW public.dep AS SELECT FROM {t}", "DROP VIEW public.dep", "dep reads"),
    "materialized view": Case(
        "CREATE MATERIALIZED VIEW public.dep AS SELECT FROM {t}", "DROP MATERIALIZED VIEW public.dep",
        "dep reads",
    ),
    "function with a parsed body": Case(
        "CREATE FUNCTION public.dep() RETURNS bigint BEGIN ATOMIC SELECT sum(amount) FROM {t}; END",
        "DROP FUNCTION public.dep", r"function dep\(\) reads",
    ),
    "function of its row type": Case(
        "CREATE FUNCTION public.dep({t}) RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION public.dep",
        r"function dep\(totals_g1\) reads",
    ),
    "column of its row type": Case(
        "CREATE TABLE public.dep (x {t})", "DROP TABLE public.dep", "column x of table dep reads"
    ),
    "foreign key": Case(
        "CREATE TABLE public.dep (x text REFERENCES {t})", "DROP TABLE public.dep",
        r"dep \(foreign key dep_x_fkey\)",
    ),
    "policy of another table": Case(
        "CREATE TABLE public.dep (x text);"
        "CREATE POLICY p ON public.dep USING (x IN (SELECT thing_id FROM {t}))",
        "DROP TABLE public.dep", "policy p on table dep reads",
    ),
    "rule on the view": Case(
        "CREATE RULE r AS ON DELETE TO public.totals DO INSTEAD DELETE FROM {t} WHERE amount = old.amount",
        "DROP RULE r ON public.totals", "rule r on view totals reads",
    ),
    "the view's own query": Case(
        "CREATE OR REPLACE VIEW public.totals AS SELECT * FROM {t} WHERE amount > 3",
        "CREATE OR REPLACE VIEW public.totals AS SELECT * FROM {t}", "does not just select the columns"
                                                                     " of totals_g1",
    ),
}  # fmt: skip
