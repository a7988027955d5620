//! What `inspect` proposes where the name of a table leads to something else than a plain table: only statements
//! that work there, and words where none does.

use crate::store::bed::Bed;
use crate::store::fixtures::succeeded;
use verifyd::ports::store::SchemaFinding;

/// The statement of a remedy: what ends with a semicolon, behind the words.
pub fn statement(remedy: &str) -> Option<&str> {
    remedy
        .ends_with(';')
        .then(|| remedy.rsplit(": ").next().unwrap())
}

pub fn subjects(findings: &[SchemaFinding]) -> Vec<&str> {
    findings.iter().map(|f| f.subject.as_str()).collect()
}

/// Puts this in the place of the tables that are named.
pub async fn replaced(tables: &[&str], by: &str) -> Bed {
    let bed = Bed::postgres().await;
    for table in tables {
        bed.exec(&format!("DROP TABLE {table}")).await;
    }
    bed.exec(by).await;
    bed
}

/// Runs all statements that are proposed. Returns what was proposed, and what is left afterwards.
pub async fn mended(bed: &Bed) -> [Vec<SchemaFinding>; 2] {
    let findings = bed.store.inspect().await.unwrap();
    for finding in &findings {
        if let Some(statement) = statement(&finding.remedy) {
            // The operator's own last step.
            let commit = match statement.starts_with("BEGIN; ") {
                true => "\nCOMMIT;",
                false => "",
            };
            let ran = bed.try_exec(&format!("{statement}{commit}")).await;
            assert!(ran.is_ok(), "{finding:?}: {ran:?}");
        }
    }
    [findings, bed.store.inspect().await.unwrap()]
}

/// Of another application: without a unique key and one column, another with another type.
pub const RUNS: &str = "
    CREATE TABLE operation_runs (id bigserial, workspace_id bigint NOT NULL, tenant_id bigint,
        type text NOT NULL, status text NOT NULL, outcome text, context json NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(), started_at timestamptz, completed_at timestamptz)";

#[tokio::test]
async fn what_is_proposed_for_a_table_works() {
    let bed = replaced(&["operation_runs"], RUNS).await;
    let [found, left] = mended(&bed).await;
    assert_eq!(found.len(), 5, "{found:?}");
    assert_eq!(left, []);
}

#[tokio::test]
async fn what_is_proposed_for_a_partitioned_table_works() {
    let by = format!(
        "{RUNS} PARTITION BY RANGE (id); CREATE TABLE operation_runs_all PARTITION OF operation_runs \
         FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
    );
    let bed = replaced(&["operation_runs"], &by).await;
    let [found, left] = mended(&bed).await;
    assert_eq!(
        subjects(&found),
        [
            "operation_runs.context",
            "operation_runs.failure_summary",
            "operation_runs (id)",
            "operation_runs",
            "operation_runs",
        ]
    );
    assert_eq!(left, []);
    // It is worked on, guarded and indexed like any other.
    bed.completed(&succeeded()).await;
    let enforced = bed.store.enforce().await.unwrap();
    assert_eq!(enforced.added.len(), 6, "{enforced:?}");
    let missing = bed.store.guards().await.unwrap().missing;
    assert_eq!(missing, Vec::<String>::new());
    bed.completed(&succeeded()).await;
}

/// `migrate --enforce` leaves the indexes out, as they would block writers.
#[tokio::test]
async fn a_partitioned_table_without_indexes_is_guarded() {
    let by = format!(
        "{RUNS} PARTITION BY RANGE (id); CREATE TABLE operation_runs_all PARTITION OF operation_runs \
         FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         ALTER TABLE operation_runs ADD COLUMN failure_summary jsonb, ADD PRIMARY KEY (id),
             ALTER COLUMN context DROP DEFAULT, ALTER COLUMN context TYPE jsonb USING context::jsonb"
    );
    let bed = replaced(&["operation_runs"], &by).await;
    let enforced = bed.store.enforce().await.unwrap();
    assert_eq!(enforced.added.len(), 6, "{enforced:?}");
    let findings = bed.store.inspect().await.unwrap();
    assert_eq!(subjects(&findings), ["operation_runs"; 2]);
    assert!(findings.iter().all(|finding| !finding.fatal));
}

#[tokio::test]
async fn what_no_statement_does_to_a_partitioned_table_is_said() {
    let by = RUNS.replace(
        "created_at timestamptz NOT NULL DEFAULT now()",
        "created_at bigint",
    ) + " PARTITION BY RANGE (created_at)";
    let bed = replaced(&["operation_runs"], &by).await;
    let [found, left] = mended(&bed).await;
    assert!(subjects(&found).contains(&"operation_runs (id, created_at)"));
    assert_eq!(subjects(&left), ["operation_runs.created_at"]);
    assert!(left[0].remedy.contains("table anew"), "{left:?}");
    // No unique key has an expression.
    let by = format!("{RUNS} PARTITION BY RANGE ((id % 8))");
    let bed = replaced(&["operation_runs"], &by).await;
    let [_, left] = mended(&bed).await;
    assert_eq!(subjects(&left), ["operation_runs (id)"]);
    assert!(left[0].remedy.contains("table anew"), "{left:?}");
}

#[tokio::test]
async fn what_is_proposed_for_inherited_columns_works() {
    let context = "context json NOT NULL DEFAULT '{}',";
    let inheriting = RUNS.replace(context, "");
    let root = RUNS.replace("operation_runs", "all_runs");
    for by in [
        format!("CREATE TABLE base ({context} note text); {inheriting} INHERITS (base)"),
        format!(
            "{root} PARTITION BY RANGE (id); CREATE TABLE operation_runs PARTITION OF all_runs \
             FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
        ),
    ] {
        let bed = replaced(&["operation_runs"], &by).await;
        let [found, left] = mended(&bed).await;
        assert_eq!(found.len(), 5, "{found:?}");
        assert_eq!(left, []);
    }
}

#[tokio::test]
async fn what_is_proposed_for_a_table_of_a_type_works() {
    let by = "CREATE TYPE run AS (id bigint, workspace_id bigint, tenant_id bigint, type text, status text,
            outcome text, context json, created_at timestamptz, started_at timestamptz,
            completed_at timestamptz);
        CREATE TABLE operation_runs OF run";
    let bed = replaced(&["operation_runs"], by).await;
    let [found, left] = mended(&bed).await;
    assert_eq!(found[0].remedy, "ALTER TABLE operation_runs NOT OF;");
    assert_eq!(found.len(), 6, "{found:?}");
    assert_eq!(left, []);
}

#[tokio::test]
async fn that_a_partition_key_cannot_be_changed_is_said() {
    let runs = RUNS.replace("id bigserial", "id serial");
    let root = runs.replace("operation_runs", "all_runs");
    let all = "FOR VALUES FROM (MINVALUE) TO (MAXVALUE)";
    for by in [
        format!(
            "{root} PARTITION BY RANGE (id); CREATE TABLE operation_runs PARTITION OF all_runs {all}"
        ),
        format!(
            "{runs} PARTITION BY RANGE (created_at); CREATE TABLE part PARTITION OF operation_runs {all} \
             PARTITION BY LIST (id)"
        ),
    ] {
        let bed = replaced(&["operation_runs"], &by).await;
        let [_, left] = mended(&bed).await;
        assert_eq!(left[0].subject, "operation_runs.id");
        let remedy = &left[0].remedy;
        assert!(remedy.starts_with("create the table anew"), "{remedy}");
    }
}

#[tokio::test]
async fn what_uses_a_column_is_named_before_its_type_is_changed() {
    let runs = RUNS.replace("status text", "status run_status").replace(
        "workspace_id bigint NOT NULL",
        "workspace_id int CHECK (workspace_id > 0)",
    );
    let by = format!(
        "CREATE TYPE run_status AS ENUM ('queued', 'running', 'completed'); {runs};
         CREATE VIEW open_runs AS SELECT id FROM operation_runs WHERE status <> 'completed';
         CREATE INDEX queued_runs ON operation_runs (id) WHERE status = 'queued';
         ALTER TABLE operation_runs ADD CONSTRAINT known CHECK (status < 'completed' OR outcome IS NOT NULL)"
    );
    let bed = replaced(&["operation_runs"], &by).await;
    let findings = bed.store.inspect().await.unwrap();
    let remedy = |subject: &str| {
        let finding = findings.iter().find(|finding| finding.subject == subject);
        finding.unwrap().remedy.as_str()
    };
    // A number is compared as before.
    let number = remedy("operation_runs.workspace_id");
    assert!(number.starts_with("ALTER TABLE"), "{number}");
    let status = remedy("operation_runs.status");
    let named = "keep the definitions and privileges of what uses the column; these statements drop it and end before \
                 COMMIT, which is your last step, once you have created it anew (constraint known on table operation_runs, index queued_runs, view open_runs): BEGIN; \
                 ALTER TABLE public.operation_runs DROP CONSTRAINT IF EXISTS known; \
                 DROP INDEX IF EXISTS public.queued_runs; DROP VIEW IF EXISTS public.open_runs; \
                 ALTER TABLE operation_runs ALTER COLUMN status TYPE text USING status::text;\n\
                 -- create anew here what was dropped, and then COMMIT;";
    assert_eq!(status, named);
    let [_, left] = mended(&bed).await;
    assert_eq!(left, []);
}

/// As `CREATE INDEX CONCURRENTLY` leaves it where it is interrupted.
#[tokio::test]
async fn an_invalid_index_is_to_be_dropped_first() {
    let bed = Bed::postgres().await;
    let index = "operation_runs_check_active";
    bed.exec(&format!(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass"
    ))
    .await;
    let findings = bed.store.inspect().await.unwrap();
    let [finding] = &findings[..] else {
        panic!("{findings:?}")
    };
    let drop = format!("DROP INDEX CONCURRENTLY {index}");
    let first = format!("unless it is being built, {drop}, which a try that failed has left");
    assert!(finding.remedy.starts_with(&first), "{finding:?}");
    bed.exec(&drop).await;
    assert_eq!(mended(&bed).await[1], []);
}

/// Another try is refused by the index that the first has left, which the remedy names.
#[tokio::test]
async fn a_unique_key_that_rows_break_leaves_one_index() {
    let bed = replaced(&["operation_runs"], RUNS).await;
    let insert =
        "INSERT INTO operation_runs (id, workspace_id, type, status) VALUES (1, 1, 'x', 'x')";
    for _ in 0..2 {
        bed.exec(insert).await;
    }
    let findings = bed.store.inspect().await.unwrap();
    let of_key = findings.iter().find(|f| f.subject == "operation_runs (id)");
    let remedy = &of_key.unwrap().remedy;
    assert!(remedy.contains("DROP INDEX operation_runs_key"), "{remedy}");
    for _ in 0..2 {
        let refused = bed.try_exec(statement(remedy).unwrap()).await;
        assert!(refused.is_err());
    }
    let left = "SELECT count(*) FROM pg_index WHERE indrelid = 'operation_runs'::regclass";
    assert_eq!(bed.number(left).await, 1);
}

const CONNECTIONS: &str = "
    SELECT 1::bigint AS id, 1::bigint AS workspace_id, 1::bigint AS tenant_id, ''::text AS provider,
        ''::text AS display_name, ''::text AS status, ''::text AS entra_tenant_id,
        ''::text AS client_id, ''::text AS cloud, ''::text AS module, now() AS created_at,
        now() AS updated_at";

#[tokio::test]
async fn for_views_it_is_said_what_to_do() {
    let tables = ["operation_runs", "tenants", "tenant_onboarding_sessions"];
    let bed = replaced(
        &tables,
        "CREATE VIEW operation_runs AS SELECT 1 AS id; CREATE VIEW tenants AS SELECT 1 AS id;
         CREATE VIEW tenant_onboarding_sessions AS
             SELECT 1::bigint AS id, 1::bigint AS workspace_id, 1::bigint AS tenant_id",
    )
    .await;
    let findings = bed.store.inspect().await.unwrap();
    let said: Vec<String> = findings
        .iter()
        .map(|f| format!("{}: {}. {}", f.subject, f.problem, f.remedy))
        .collect();
    assert_eq!(
        said,
        [
            "operation_runs: it is a view, needed: a table. let the name lead to the table that it reads: \
             rename both, or put the schema of the table first in search_path",
            "tenants.id: the type is int4, needed: bigint. create the view anew with id::bigint AS id",
            "tenant_onboarding_sessions.state: the column is missing. create the view anew with a column \
             state of type jsonb",
        ]
    );
    // As it says.
    bed.exec(
        "DROP VIEW tenants; CREATE VIEW tenants AS SELECT id::bigint AS id FROM (SELECT 1 AS id) t",
    )
    .await;
    assert_eq!(bed.store.inspect().await.unwrap().len(), 2);
}

/// `serve` writes this one.
#[tokio::test]
async fn the_rule_of_a_view_that_refuses_a_statement_is_named() {
    let bed = replaced(
        &["tenant_permissions"],
        "CREATE TABLE kept (tenant_id bigint, permission_key text, status text, details jsonb,
             last_checked_at timestamptz, UNIQUE (tenant_id, permission_key));
         CREATE VIEW tenant_permissions AS SELECT * FROM kept;
         CREATE RULE of_application AS ON INSERT TO tenant_permissions
             DO INSTEAD INSERT INTO kept VALUES (new.*)",
    )
    .await;
    let refused = bed.store.try_writing().await.unwrap_err().to_string();
    let named = "(SQLSTATE 0A000) (rules: of_application)";
    assert!(refused.ends_with(named), "{refused}");
}

#[tokio::test]
async fn what_is_proposed_for_a_materialized_view_works() {
    let tables = ["provider_connections", "tenant_permissions"];
    let by = format!(
        "CREATE MATERIALIZED VIEW provider_connections AS {CONNECTIONS};
         CREATE MATERIALIZED VIEW tenant_permissions AS SELECT 1::bigint AS tenant_id"
    );
    let bed = replaced(&tables, &by).await;
    let [found, left] = mended(&bed).await;
    assert_eq!(
        subjects(&found),
        ["provider_connections (id)", "tenant_permissions"]
    );
    // `serve` writes this one.
    assert_eq!(subjects(&left), ["tenant_permissions"]);
    let problem = "it is a materialized view, needed: a table";
    assert_eq!(left[0].problem, problem);
}

#[tokio::test]
async fn what_is_proposed_for_a_foreign_table_works() {
    let tables = ["operation_runs", "tenants", "tenant_onboarding_sessions"];
    let bed = replaced(
        &tables,
        "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE operation_runs (id bigint) SERVER elsewhere;
         CREATE FOREIGN TABLE tenants (id integer DEFAULT 1) SERVER elsewhere;
         CREATE FOREIGN TABLE tenant_onboarding_sessions (id bigint, workspace_id bigint, tenant_id bigint)
             SERVER elsewhere",
    )
    .await;
    let [found, left] = mended(&bed).await;
    assert_eq!(
        subjects(&found),
        [
            "operation_runs",
            "tenants.id",
            "tenant_onboarding_sessions.state"
        ]
    );
    assert_eq!(subjects(&left), ["operation_runs"]);
    assert_eq!(left[0].problem, "it is a foreign table, needed: a table");
    assert_eq!(statement(&left[0].remedy), None);
}
