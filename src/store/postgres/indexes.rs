//! The indexes on `operation_runs` that make verifyd faster. Its own table has them; for another
//! application's `inspect` proposes them and `enforce` builds them, unless it is partitioned.

use super::run_type;
use crate::store::sql::sql;

/// One of them.
pub(super) struct Index {
    pub name: &'static str,
    /// Key and predicate, as they follow the name of the table.
    pub on: &'static str,
    /// Whether the table whose name is `$1` has it, or another one that serves the same purpose.
    pub there: &'static str,
    /// What is slow without it.
    pub problem: &'static str,
}

/// Any valid index whose predicate names verifyd's type and both states.
pub(super) const ACTIVE: Index = Index {
    name: "operation_runs_check_active",
    on: sql!("(status, id) WHERE type = " run_type!() " AND status IN ('queued', 'running')"),
    there: "\
        SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisvalid \
            AND (pg_get_expr(i.indpred, i.indrelid) LIKE '%provider.connection.check%' \
                 AND pg_get_expr(i.indpred, i.indrelid) LIKE '%queued%' \
                 AND pg_get_expr(i.indpred, i.indrelid) LIKE '%running%'))",
    problem: "no partial index finds the runs that are queued or running, so that every sweep reads \
              the whole table",
};

/// Any valid index that begins with the tenant and the id, and whose predicate names verifyd's type and the
/// status `queued`.
pub(super) const FAIR_QUEUING: Index = Index {
    name: "operation_runs_check_turns",
    on: sql!("(tenant_id, id) WHERE type = " run_type!() " AND status = 'queued'"),
    there: "\
        SELECT EXISTS (SELECT FROM pg_index i \
            JOIN pg_attribute t ON t.attrelid = i.indrelid AND t.attnum = i.indkey[0] \
            JOIN pg_attribute r ON r.attrelid = i.indrelid AND r.attnum = i.indkey[1] \
            WHERE i.indrelid = to_regclass($1) AND i.indisvalid \
            AND t.attname = 'tenant_id' AND r.attname = 'id' \
            AND pg_get_expr(i.indpred, i.indrelid) LIKE '%provider.connection.check%' \
            AND pg_get_expr(i.indpred, i.indrelid) LIKE '%queued%')",
    problem: "no partial index leads from tenant to tenant among what is queued, so that a tenant \
              with many queued runs is not made to wait for the others",
};

/// Whether the table with the oid `$1` has an invalid index of the name `$2`: a try to build it that failed leaves one.
pub(super) const INVALID: &str = "
    SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = $1::oid AND c.relname = $2 AND NOT i.indisvalid)";

pub(super) const ALL: [&Index; 2] = [&ACTIVE, &FAIR_QUEUING];
