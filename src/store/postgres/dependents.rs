//! What depends on a column, and must be dropped before PostgreSQL changes the type of the column.

use crate::store::from_row::from_row;

/// `$1`: the name of a table, `$2`: of its column. What depends on the column there and in the tables that inherit it, what
/// depends on that in turn, and the statement that drops it. What is to be dropped first comes first.
///
/// PostgreSQL rebuilds constraints, indexes and statistics itself. Whether it can depends on the type (`obstacle`).
/// In stored expressions `:varattno` is a column, `:funcformat 0` a call and `:opno` an operator; a function with an
/// argument of a small integer or `json` does not take the new type, nor an operator that has no variant for `bigint`,
/// nor an operator class that is not the default of its type. Nothing that has data of its own has a statement, such as
/// a column of the row type of the table; a generated column has none. A constraint that a table has of its own and from
/// the table above is dropped there first.
pub(super) const DEPENDENTS: &str = "
    WITH RECURSIVE tree AS (
        SELECT to_regclass($1::text)::oid AS oid, 0 AS level
        UNION SELECT i.inhrelid, tree.level + 1 FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid),
    row_type AS (
        SELECT c.reltype AS oid FROM tree JOIN pg_class c ON c.oid = tree.oid
        UNION
        SELECT o.oid FROM row_type
        JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = row_type.oid
        LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objsubid > 0 AND c.oid = d.objid
            AND c.relkind IN ('c', 'v', 'f')
        CROSS JOIN LATERAL (
            SELECT CASE WHEN d.classid = 'pg_type'::regclass THEN d.objid ELSE c.reltype END AS oid) o
        WHERE o.oid <> 0),
    walk AS (
        SELECT 'pg_class'::regclass::oid AS classid, a.attrelid AS objid, a.attnum::int AS objsubid,
            a.attnum::int AS attnum, 0 AS depth, true AS is_dropped
        FROM tree JOIN pg_attribute a ON a.attrelid = tree.oid
        WHERE a.attname = $2::text AND NOT a.attisdropped
        UNION
        SELECT m.classid, m.objid, m.objsubid, walk.attnum, walk.depth + 1, m.is_dropped
        FROM walk
        JOIN pg_depend d ON d.refclassid = walk.classid AND d.refobjid = walk.objid
            AND (walk.objsubid = 0 OR d.refobjsubid = walk.objsubid) AND d.deptype IN ('n', 'a', 'i')
        LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid AND w.ev_type = '1'
        LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
        LEFT JOIN pg_attribute g ON g.attrelid = f.adrelid AND g.attnum = f.adnum AND g.attgenerated <> ''
        LEFT JOIN pg_constraint x ON d.classid = 'pg_class'::regclass AND x.conindid = d.objid
            AND x.contype IN ('p', 'u', 'x')
        CROSS JOIN LATERAL (
            SELECT CASE WHEN w.oid IS NOT NULL OR g.attnum IS NOT NULL THEN 'pg_class'::regclass::oid
                        WHEN x.oid IS NOT NULL THEN 'pg_constraint'::regclass::oid
                        ELSE d.classid END AS classid,
                coalesce(w.ev_class, g.attrelid, x.oid, d.objid) AS objid,
                coalesce(g.attnum::int, d.objsubid) AS objsubid) o
        CROSS JOIN LATERAL (
            SELECT o.classid, o.objid, o.objsubid,
                o.objsubid > 0 OR o.classid IN ('pg_proc'::regclass, 'pg_type'::regclass)
                OR o.classid = 'pg_class'::regclass
                   AND EXISTS (SELECT FROM pg_class v WHERE v.oid = o.objid AND v.relkind IN ('v', 'm'))
                AS is_dropped) m
        WHERE walk.is_dropped AND walk.depth < 32
          AND (m.classid, m.objid, m.objsubid) <> (walk.classid, walk.objid, walk.objsubid)),
    found AS (
        SELECT classid, objid, objsubid, max(attnum) AS attnum, max(depth) AS depth, min(depth) > 1 AS is_indirect
        FROM walk GROUP BY classid, objid, objsubid HAVING min(depth) > 0),
    described AS (
        SELECT pg_describe_object(n.classid, n.objid, n.objsubid) AS name, n.depth,
            (k.contype = 'f') IS TRUE AS is_reference,
            (SELECT max(tree.level) FROM tree WHERE tree.oid = k.conrelid) AS level,
            n.classid = 'pg_policy'::regclass AND EXISTS (
                SELECT FROM pg_policy l WHERE l.oid = n.objid AND NOT l.polpermissive) AS is_restrictive,
            EXISTS (SELECT FROM tree JOIN pg_attribute a ON a.attrelid = tree.oid
                WHERE tree.level = 0 AND a.attrelid = f.adrelid AND a.attnum = f.adnum AND a.attname = $2::text)
                AS is_own_default,
            CASE WHEN k.conrelid <> 0
                    THEN format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I', q.identity, k.conname)
                WHEN p.oid IS NOT NULL THEN format('DO $do$ BEGIN IF EXISTS (SELECT FROM pg_publication_rel r '
                    'JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = %L AND r.prrelid = %L::regclass) '
                    'THEN ALTER PUBLICATION %1$I DROP TABLE %2$s; END IF; END $do$', b.pubname, q.identity)
                WHEN f.oid IS NOT NULL THEN format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT', q.identity,
                    (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = f.adrelid AND a.attnum = f.adnum))
                WHEN g.attgenerated <> '' THEN format('ALTER TABLE %s DROP COLUMN IF EXISTS %I', q.identity, g.attname)
                WHEN o.type IN ('view', 'materialized view', 'rule', 'trigger', 'policy', 'function', 'procedure',
                        'aggregate', 'index', 'statistics object')
                    THEN format('DROP %s IF EXISTS %s', upper(replace(o.type, ' object', '')), o.identity)
            END AS statement,
            CASE WHEN n.is_indirect THEN 'always'
                WHEN k.contype = 'f' THEN 'reference'
                WHEN i.indexrelid IS NULL AND k.oid IS NULL AND s.oid IS NULL THEN 'always'
                WHEN e.is_named AND EXISTS (
                    SELECT FROM regexp_matches(e.code, ':funcid ([0-9]+) [^{}]*:funcformat 0 ', 'g') AS c(ids)
                    JOIN pg_proc u ON u.oid = c.ids[1]::oid
                    WHERE u.proargtypes::oid[] && ARRAY['int2'::regtype, 'int4'::regtype, 'json'::regtype]::oid[])
                    OR e.is_named AND EXISTS (
                    SELECT FROM regexp_matches(e.code, ':opno ([0-9]+) ', 'g') AS c(ids)
                    JOIN pg_operator u ON u.oid = c.ids[1]::oid
                    WHERE u.oprleft IN ('int2'::regtype, 'int4'::regtype) AND NOT EXISTS (
                            SELECT FROM pg_operator v WHERE v.oprname = u.oprname AND v.oprleft = 'int8'::regtype
                            AND v.oprright IN (u.oprright, 'int8'::regtype))
                        OR u.oprright IN ('int2'::regtype, 'int4'::regtype) AND NOT EXISTS (
                            SELECT FROM pg_operator v WHERE v.oprname = u.oprname AND v.oprright = 'int8'::regtype
                            AND (v.oprleft = u.oprleft OR u.oprleft IN ('int2'::regtype, 'int4'::regtype)
                                AND v.oprleft = 'int8'::regtype)))
                    OR EXISTS (
                    SELECT FROM unnest(i.indkey::int2[], i.indclass::oid[]) AS y(attnum, opclass)
                    JOIN pg_opclass c ON c.oid = y.opclass
                    WHERE NOT c.opcdefault AND (y.attnum = n.attnum OR y.attnum = 0 AND e.is_named))
                    THEN 'type'
                WHEN e.is_named OR k.contype = 'x' OR EXISTS (
                    SELECT FROM unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[])
                        AS y(attnum, opclass, collated)
                    JOIN pg_opclass c ON c.oid = y.opclass
                    JOIN pg_am h ON h.oid = c.opcmethod
                    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = y.attnum
                    WHERE y.attnum = n.attnum AND (NOT c.opcdefault OR h.amname NOT IN ('btree', 'hash')
                        OR y.collated <> a.attcollation)) THEN 'another kind'
            END AS obstacle
        FROM found n
        CROSS JOIN LATERAL pg_identify_object(n.classid, n.objid, n.objsubid) AS o
        LEFT JOIN pg_class r ON n.classid = 'pg_class'::regclass AND r.oid = n.objid
        LEFT JOIN pg_attribute g ON n.objsubid > 0 AND g.attrelid = r.oid AND g.attnum = n.objsubid
        LEFT JOIN pg_constraint k ON n.classid = 'pg_constraint'::regclass AND k.oid = n.objid
        LEFT JOIN pg_index i ON i.indexrelid = coalesce(r.oid, CASE WHEN k.contype <> 'f' THEN k.conindid END)
        LEFT JOIN pg_statistic_ext s ON n.classid = 'pg_statistic_ext'::regclass AND s.oid = n.objid
        LEFT JOIN pg_trigger t ON n.classid = 'pg_trigger'::regclass AND t.oid = n.objid
        LEFT JOIN pg_attrdef f ON n.classid = 'pg_attrdef'::regclass AND f.oid = n.objid
        LEFT JOIN pg_publication_rel p ON n.classid = 'pg_publication_rel'::regclass AND p.oid = n.objid
        LEFT JOIN pg_publication b ON b.oid = p.prpubid
        LEFT JOIN LATERAL pg_identify_object('pg_class'::regclass,
            coalesce(nullif(k.conrelid, 0), p.prrelid, f.adrelid, g.attrelid), 0) AS q ON true
        CROSS JOIN LATERAL (SELECT c.code, strpos(c.code, format(':varattno %s ', n.attnum)) > 0 AS is_named
            FROM (SELECT concat(i.indexprs::text, i.indpred::text, k.conbin::text, s.stxexprs::text) AS code) c) e
        WHERE n.classid <> 'pg_type'::regclass
          -- Neither sequences nor tables, nor what partitions and inheriting tables have from the table above.
          AND (r.oid IS NULL OR n.objsubid > 0 OR r.relkind IN ('v', 'm', 'i', 'I') AND NOT r.relispartition)
          AND (g.attgenerated = '' OR g.attinhcount = 0) IS NOT FALSE
          AND (k.conparentid = 0 AND (k.coninhcount = 0 OR k.conislocal)) IS NOT FALSE
          AND (t.tgparentid = 0 AND NOT t.tgisinternal) IS NOT FALSE
          -- Its own default is changed with the column, unless that uses what is dropped.
          AND (f.oid IS NULL OR n.depth > 1)
        UNION ALL
        SELECT pg_describe_object('pg_class'::regclass, a.attrelid, a.attnum), 0, false, 0, false, false, NULL, 'always'
        FROM row_type JOIN pg_attribute a ON a.atttypid = row_type.oid AND NOT a.attisdropped
        JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'm')
        WHERE NOT EXISTS (SELECT FROM found n WHERE n.classid = 'pg_class'::regclass AND n.objid = a.attrelid
            AND n.objsubid IN (0, a.attnum)))
    SELECT name, statement, obstacle, is_restrictive, is_own_default FROM described
    WHERE name IS NOT NULL AND obstacle IS NOT NULL
    ORDER BY depth DESC, is_reference DESC, level, name";

from_row! {
    /// An object that depends on a column, from a row of [`DEPENDENTS`].
    #[derive(Debug)]
    pub(super) struct Dependent {
        name: String,
        statement: Option<String>,
        obstacle: String,
        is_restrictive: bool,
        is_own_default: bool,
    }
}

/// How far the new type of a column differs from the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// Both are texts: functions and operator classes take both.
    Length,
    /// Both are integers: most operators and foreign keys take both.
    Size,
    /// Both are numbers or JSON: most operators take both.
    Form,
    Kind,
}

impl Dependent {
    /// Returns whether PostgreSQL refuses the new type while this exists.
    fn is_obstacle(&self, difference: Difference) -> bool {
        match self.obstacle.as_str() {
            "type" => difference != Difference::Length,
            "reference" => !matches!(difference, Difference::Length | Difference::Size),
            "another kind" => difference == Difference::Kind,
            _ => true,
        }
    }
}

/// Whether the default of the column itself is dropped, since it uses what is dropped.
pub(super) fn drops_own_default(dependents: &[Dependent]) -> bool {
    dependents.iter().any(|dependent| dependent.is_own_default)
}

/// Returns the words and the statements that change the type of a column by `alter`, which ends with a semicolon. What
/// is dropped is dropped in the same transaction, which is left open: its definition is lost only with COMMIT.
pub(super) fn with_dropped(
    dependents: &[Dependent],
    difference: Difference,
    alter: &str,
) -> (String, String) {
    let obstacles: Vec<&Dependent> = dependents
        .iter()
        .filter(|dependent| dependent.is_obstacle(difference))
        .collect();
    let names = |has_statement: bool| {
        let names: Vec<&str> = obstacles
            .iter()
            .filter(|dependent| dependent.statement.is_some() == has_statement)
            .map(|dependent| dependent.name.as_str())
            .collect();
        names.join(", ")
    };
    let (others, dropped) = (names(false), names(true));
    let first = match others.is_empty() {
        true => String::new(),
        false => format!("first drop or change what else uses the column ({others}): "),
    };
    if dropped.is_empty() {
        return (first, alter.to_owned());
    }
    let is_restricted = obstacles.iter().any(|dependent| dependent.is_restrictive);
    let visible = match is_restricted {
        true => "; rows that a RESTRICTIVE policy hides become visible if it is not there by then",
        false => "",
    };
    let words = format!(
        "{first}keep the definitions and privileges of what uses the column; these statements drop it and end before \
         COMMIT, which is your last step, once you have created it anew{visible} ({dropped}): "
    );
    let statements: Vec<&str> = obstacles
        .iter()
        .filter_map(|dependent| dependent.statement.as_deref())
        .collect();
    let statements = format!(
        "BEGIN; {}; {alter}\n-- create anew here what was dropped, and then COMMIT;",
        statements.join("; ")
    );
    (words, statements)
}
