"""Reads the properties that users gave to a generation's table.

They are compared, or copied to a new table.
"""

from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.identifiers import USERS_SCHEMA


class Trait(NamedTuple):
    """One property of a table.

    The text does not contain the table's name, so that traits of two tables can be equal.
    """

    kind: str
    what: str


_GRANTEE = "CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END"
_OPTION = "CASE WHEN a.is_grantable THEN ' with grant option' ELSE '' END"
_GRANT = f"a.privilege_type || ' to ' || {_GRANTEE} || {_OPTION}"

READ_TRAITS = Statement(
    "read_table_traits",
    f"""
    WITH t AS (
        SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = $2
    ), columns AS (
        SELECT k.* FROM pg_attribute k JOIN t ON t.oid = k.attrelid WHERE k.attnum > 0 AND NOT k.attisdropped
    )
    SELECT 'column', k.attname || ' ' || format_type(k.atttypid, k.atttypmod)
        || coalesce(' collation ' || (SELECT l.collname FROM pg_collation l WHERE l.oid = k.attcollation
            AND l.collname <> 'default'), '')
        || coalesce(' default ' || (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
            WHERE d.adrelid = k.attrelid AND d.adnum = k.attnum), '')
        || CASE WHEN k.attnotnull THEN ' not null' ELSE '' END
        || CASE k.attidentity WHEN '' THEN '' ELSE ' identity' END
        || CASE k.attgenerated WHEN '' THEN '' ELSE ' generated' END
    FROM columns k
    UNION ALL
    SELECT CASE o.contype WHEN 'f' THEN 'foreign key' ELSE 'constraint' END,
        regexp_replace(pg_get_constraintdef(o.oid), ' NOT VALID$', '')
    FROM pg_constraint o JOIN t ON t.oid = o.conrelid WHERE o.contype IN ('c', 'f', 'p', 'u', 'x')
    UNION ALL
    SELECT 'index', CASE WHEN i.indisunique THEN 'unique ' ELSE '' END
        || substring(pg_get_indexdef(i.indexrelid) FROM ' (USING .*)$')
    FROM pg_index i JOIN t ON t.oid = i.indrelid WHERE i.indisvalid
    UNION ALL
    SELECT 'extended statistics', pg_get_statisticsobjdef_columns(s.oid)
    FROM pg_statistic_ext s JOIN t ON t.oid = s.stxrelid
    UNION ALL
    SELECT 'grant', {_GRANT} FROM t CROSS JOIN LATERAL aclexplode(t.relacl) a
    UNION ALL
    SELECT 'grant', {_GRANT} FROM t CROSS JOIN LATERAL aclexplode(acldefault('r', t.relowner)) a
    WHERE t.relacl IS NULL
    UNION ALL
    SELECT 'grant', a.privilege_type || ' (' || k.attname || ') to ' || {_GRANTEE}
        || {_OPTION}
    FROM columns k CROSS JOIN LATERAL aclexplode(k.attacl) a
    UNION ALL
    SELECT 'row-level security', 'enabled' FROM t WHERE t.relrowsecurity
    UNION ALL
    SELECT 'row-level security', 'forced on the owner' FROM t WHERE t.relforcerowsecurity
    UNION ALL
    SELECT 'policy', p.polname || CASE WHEN p.polpermissive THEN '' ELSE ' as restrictive' END
        || ' for ' || CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update'
            WHEN 'd' THEN 'delete' ELSE 'all' END
        || ' to ' || (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r)::text END, ', '
            ORDER BY r) FROM unnest(p.polroles) r)
        || coalesce(' using (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
        || coalesce(' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
    FROM pg_policy p JOIN t ON t.oid = p.polrelid
    UNION ALL
    SELECT 'trigger', g.tgname || ' executing ' || g.tgfoid::regproc
        || CASE g.tgenabled WHEN 'D' THEN ' (disabled)' ELSE '' END
    FROM pg_trigger g JOIN t ON t.oid = g.tgrelid WHERE NOT g.tgisinternal
    UNION ALL
    SELECT 'rule', r.rulename::text FROM pg_rewrite r JOIN t ON t.oid = r.ev_class
    UNION ALL
    SELECT 'publication', p.pubname::text
    FROM pg_publication_rel m JOIN pg_publication p ON p.oid = m.prpubid JOIN t ON t.oid = m.prrelid
    UNION ALL
    SELECT 'replica identity', CASE t.relreplident WHEN 'i' THEN 'an index' WHEN 'f' THEN 'full'
        ELSE 'nothing' END
    FROM t WHERE t.relreplident <> 'd'
    UNION ALL
    SELECT 'inheritance', 'from ' || i.inhparent::regclass FROM pg_inherits i JOIN t ON t.oid = i.inhrelid
    UNION ALL
    SELECT 'inheritance', 'by ' || i.inhrelid::regclass FROM pg_inherits i JOIN t ON t.oid = i.inhparent
    UNION ALL
    SELECT 'security label', l.provider || ' ' || l.label
        || CASE l.objsubid WHEN 0 THEN '' ELSE ' on a column' END
    FROM pg_seclabel l JOIN t ON t.oid = l.objoid AND l.classoid = 'pg_class'::regclass
    UNION ALL
    SELECT 'comment', obj_description(t.oid, 'pg_class') FROM t WHERE obj_description(t.oid, 'pg_class') <> ''
    UNION ALL
    SELECT 'comment', k.attname || ': ' || col_description(k.attrelid, k.attnum)
    FROM columns k WHERE col_description(k.attrelid, k.attnum) <> ''
    UNION ALL
    SELECT 'storage parameter', o FROM t CROSS JOIN LATERAL unnest(t.reloptions) o
    UNION ALL
    SELECT 'storage parameter', 'toast.' || o
    FROM t JOIN pg_class x ON x.oid = t.reltoastrelid CROSS JOIN LATERAL unnest(x.reloptions) o
    UNION ALL
    SELECT 'storage parameter', o || ' of column ' || k.attname
    FROM columns k CROSS JOIN LATERAL unnest(k.attoptions) o
    UNION ALL
    SELECT 'storage parameter', 'statistics ' || k.attstattarget || ' of column ' || k.attname
    FROM columns k WHERE k.attstattarget >= 0
    UNION ALL
    SELECT 'storage', 'tablespace ' || s.spcname FROM t JOIN pg_tablespace s ON s.oid = t.reltablespace
    UNION ALL
    SELECT 'storage', 'access method ' || m.amname FROM t JOIN pg_am m ON m.oid = t.relam
    """,
    ("text", "text"),
)


def read_traits(session: Session, table: str) -> frozenset[Trait]:
    """Returns all traits of a users' table. Returns an empty set if the table does not exist."""
    return frozenset(Trait(*row) for row in session.run(READ_TRAITS, USERS_SCHEMA, table))


_TO = """CROSS JOIN LATERAL (SELECT
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee,
            CASE WHEN a.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END AS option) g"""
_VALUE = "split_part(o, '=', 1), substring(o FROM position('=' IN o) + 1)"

# Step 2 revokes the default privileges of the new table, before step 3 grants other privileges.
WRITE_TRAITS = Statement(
    "write_table_traits",
    f"""
    WITH named AS (
        SELECT c.*, c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1
    ), model AS (SELECT * FROM named WHERE relname = $2), made AS (SELECT * FROM named WHERE relname = $3),
    access AS (SELECT FROM model, made WHERE model.relacl IS NOT NULL OR made.relacl IS NOT NULL),
    columns AS (
        SELECT k.* FROM pg_attribute k JOIN model ON model.oid = k.attrelid
        WHERE k.attnum > 0 AND NOT k.attisdropped
    ), commands (step, command) AS (
        SELECT 1, format('ALTER TABLE %s OWNER TO %I', made.name, pg_get_userbyid(model.relowner))
        FROM model, made WHERE model.relowner <> made.relowner
        UNION ALL
        SELECT DISTINCT 2, format('REVOKE ALL ON %s FROM %s', made.name, g.grantee)
        FROM access CROSS JOIN made
        CROSS JOIN LATERAL aclexplode(coalesce(made.relacl, acldefault('r', made.relowner))) a
        {_TO}
        UNION ALL
        SELECT 3, format('GRANT %s ON %s TO %s %s', a.privilege_type, made.name, g.grantee, g.option)
        FROM access CROSS JOIN made CROSS JOIN model
        CROSS JOIN LATERAL aclexplode(coalesce(model.relacl, acldefault('r', model.relowner))) a
        {_TO}
        UNION ALL
        SELECT 3, format('GRANT %s (%I) ON %s TO %s %s', a.privilege_type, k.attname, made.name, g.grantee,
            g.option)
        FROM made, columns k CROSS JOIN LATERAL aclexplode(k.attacl) a
        {_TO}
        UNION ALL
        SELECT 4, format('COMMENT ON TABLE %s IS %L', made.name, obj_description(model.oid, 'pg_class'))
        FROM model, made WHERE obj_description(model.oid, 'pg_class') <> ''
        UNION ALL
        SELECT 4, format('ALTER TABLE %s SET (%s = %L)', made.name, {_VALUE})
        FROM made, model CROSS JOIN LATERAL unnest(model.reloptions) o
        UNION ALL
        SELECT 4, format('ALTER TABLE %s SET (toast.%s = %L)', made.name, {_VALUE})
        FROM made, model JOIN pg_class x ON x.oid = model.reltoastrelid
        CROSS JOIN LATERAL unnest(x.reloptions) o
        UNION ALL
        SELECT 4, format('ALTER TABLE %s ALTER COLUMN %I SET (%s = %L)', made.name, k.attname, {_VALUE})
        FROM made, columns k CROSS JOIN LATERAL unnest(k.attoptions) o
        UNION ALL
        SELECT 4, format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', made.name, k.attname,
            k.attstattarget)
        FROM made, columns k WHERE k.attstattarget >= 0
        UNION ALL
        SELECT 4, format('ALTER TABLE %s REPLICA IDENTITY %s', made.name,
            CASE model.relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END)
        FROM made, model WHERE model.relreplident IN ('f', 'n')
        UNION ALL
        SELECT 4, format('ALTER TABLE %s SET TABLESPACE %I', made.name, s.spcname)
        FROM made, model JOIN pg_tablespace s ON s.oid = model.reltablespace
    )
    SELECT command FROM commands ORDER BY step, command
    """,
    ("text", "text", "text"),
)


def copy_traits(session: Session, model: str, table: str) -> None:
    """Copies properties from `model` to a new, empty table that was created with LIKE.

    Copies the properties that LIKE omits: owner, grants, comment, storage parameters, replica identity and
    tablespace.
    """
    commands = session.run(WRITE_TRAITS, USERS_SCHEMA, model, table)
    if commands:
        session.users_command("; ".join(command for (command,) in commands))
