//! `migrate` on a PostgreSQL database where another application's tables are already there, made
//! as a Laravel application makes them, with its rows in them.

use crate::store::bed::{Bed, settings};
use crate::store::fixtures::{SWEEP, claim, new_run, refresh, sealed, succeeded};
use sqlx::{AssertSqlSafe, PgPool};
use std::time::Duration;
use test_support::world::operator;
use verifyd::domain::access::Binding;
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{RunStatus, TenantId};
use verifyd::ports::overview::ConnectionFilter;
use verifyd::ports::probe::Writing;
use verifyd::ports::store::SchemaFinding;

const APPLICATION: &str = r#"
CREATE TABLE tenants (id bigserial PRIMARY KEY, workspace_id bigint NOT NULL, name varchar(255) NOT NULL,
    plan varchar(20) NOT NULL DEFAULT 'free', created_at timestamp(0), updated_at timestamp(0));
CREATE TABLE operation_runs (
    id bigserial PRIMARY KEY, workspace_id bigint NOT NULL, tenant_id bigint REFERENCES tenants (id),
    type varchar(255) NOT NULL, status varchar(255) NOT NULL DEFAULT 'queued', outcome varchar(255),
    context jsonb NOT NULL DEFAULT '{}', failure_summary jsonb NOT NULL DEFAULT '[]',
    priority integer NOT NULL DEFAULT 5,
    created_at timestamp(0), started_at timestamp(0), completed_at timestamp(0));
CREATE INDEX operation_runs_type_status ON operation_runs (type, status);
CREATE TABLE provider_connections (
    id bigserial PRIMARY KEY, workspace_id bigint NOT NULL, tenant_id bigint NOT NULL,
    provider varchar(255) NOT NULL, display_name varchar(255), status varchar(255) NOT NULL,
    entra_tenant_id varchar(255), client_id varchar(255), cloud varchar(255), module varchar(255),
    is_default boolean NOT NULL DEFAULT false, created_at timestamp(0), updated_at timestamp(0));
CREATE TABLE provider_credentials (
    id bigserial PRIMARY KEY, provider_connection_id bigint NOT NULL REFERENCES provider_connections (id),
    kind varchar(255) NOT NULL, payload text NOT NULL, expires_at timestamp(0),
    created_at timestamp(0), updated_at timestamp(0));
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER touch BEFORE UPDATE ON provider_connections FOR EACH ROW EXECUTE FUNCTION touch();

INSERT INTO tenants (id, workspace_id, name) VALUES (7, 3, 'Fabrikam');
INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome, context, created_at) VALUES
    (3, 7, 'backup.restore', 'queued', NULL, '{"a": 1}', '2026-01-01 10:00:00'),
    (3, 7, 'backup.restore', 'running', NULL, '[]', '2026-01-01 10:00:00'),
    (3, 7, 'policy.sync', 'cancelled', 'partially_succeeded', '{}', '2026-01-01 10:00:00'),
    (3, NULL, 'policy.sync', 'completed', 'blocked', '{}', NULL);
INSERT INTO provider_connections (workspace_id, tenant_id, provider, status, entra_tenant_id, created_at)
    VALUES (3, 7, 'microsoft', 'enabled', '5c000000-0000-4000-8000-000000000001', '2026-01-01 10:00:00');
INSERT INTO provider_credentials (provider_connection_id, kind, payload) VALUES (1, 'client_secret', 'x');
"#;

const THEIRS: [&str; 4] = [
    "tenants",
    "operation_runs",
    "provider_connections",
    "provider_credentials",
];

/// Everything that PostgreSQL knows about the definition of a table.
const DEFINITION: &str = "
SELECT string_agg(line, E'\n' ORDER BY line) FROM (
    SELECT 'table ' || c.relkind::text || c.relpersistence::text || c.relhastriggers::text
        || c.relhasrules::text || c.relrowsecurity::text || coalesce(c.reloptions::text, '')
        || coalesce(c.relacl::text, '') || c.relowner::text || c.relfilenode::text AS line
        FROM pg_class c WHERE c.oid = $1::regclass
    UNION ALL SELECT 'column ' || a.attname || format_type(a.atttypid, a.atttypmod)
        || a.attnotnull::text || a.attnum || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
        FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = $1::regclass AND a.attnum > 0
    UNION ALL SELECT 'index ' || pg_get_indexdef(indexrelid) || indisvalid::text
        FROM pg_index WHERE indrelid = $1::regclass
    UNION ALL SELECT 'constraint ' || conname || pg_get_constraintdef(oid)
        FROM pg_constraint WHERE conrelid = $1::regclass OR confrelid = $1::regclass
    UNION ALL SELECT 'trigger ' || tgname || pg_get_triggerdef(oid)
        FROM pg_trigger WHERE tgrelid = $1::regclass
) AS lines";

pub async fn definitions(pool: &PgPool) -> Vec<String> {
    let mut all = Vec::new();
    for table in THEIRS {
        let definition: String = sqlx::query_scalar(DEFINITION)
            .bind(table)
            .fetch_one(pool)
            .await
            .unwrap();
        all.push(format!("{table}\n{definition}"));
    }
    all
}

pub async fn rows(bed: &Bed) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for table in THEIRS {
        all.push(bed.dump(table).await);
    }
    all
}

pub async fn beside() -> Bed {
    let bed = Bed::empty_postgres().await;
    bed.exec(APPLICATION).await;
    bed
}

#[tokio::test]
async fn migrate_adds_its_own_and_changes_nothing() {
    let bed = beside().await;
    let before = (definitions(bed.pg()).await, rows(&bed).await);
    let migrated = bed.store.migrate().await.unwrap();
    let mut theirs = THEIRS.map(|table| format!("public.{table}")).to_vec();
    theirs.sort();
    assert_eq!(migrated.foreign, theirs);
    for own in [
        "public.tenant_permissions",
        "public.tenant_onboarding_sessions",
        "public.verification_check_acknowledgements",
        "verifyd.run_attempts",
        "verifyd.schema_migrations",
    ] {
        assert!(
            migrated.owned.iter().any(|t| t == own),
            "{own}: {:?}",
            migrated.owned
        );
    }
    assert_eq!((definitions(bed.pg()).await, rows(&bed).await), before);
    let again = bed.store.migrate().await.unwrap();
    assert_eq!(
        (again.foreign, again.owned),
        (migrated.foreign, migrated.owned)
    );
    assert_eq!((definitions(bed.pg()).await, rows(&bed).await), before);
}

/// The whole protocol on the application's own tables, with times without a time zone.
#[tokio::test]
async fn runs_are_worked_off_in_the_applications_tables() {
    let bed = beside().await;
    bed.store.migrate().await.unwrap();
    let others = "operation_runs WHERE type <> 'provider.connection.check'";
    let before = bed
        .dump(
            "(SELECT ctid, xmin, xmax, r AS r FROM operation_runs r \
                            WHERE type <> 'provider.connection.check')",
        )
        .await;
    // As the application inserts it, and tells nobody.
    let run = bed.queued().await;
    bed.exec(
        "UPDATE operation_runs SET created_at = now() WHERE created_at IS NULL AND tenant_id = 7",
    )
    .await;
    assert_eq!(bed.sweep().await.due, [run]);
    let held = bed.claim(run, "w1").await;
    assert_eq!(bed.sweep().await.reclaimed, [run]);
    assert!(!bed.store.complete(&held, &succeeded()).await.unwrap());
    let held = bed.claim(run, "w2").await;
    let mut completion = succeeded();
    completion.inventory = Some(refresh(7, &[("A.Read", true)]));
    assert!(bed.store.complete(&held, &completion).await.unwrap());
    let stored = bed.run(run).await;
    assert_eq!(stored.status, RunStatus::Completed);
    // The session's time zone is UTC, so that no hour is lost on the way.
    let off: f64 = sqlx::query_scalar(
        "SELECT abs(extract(epoch FROM (now() AT TIME ZONE 'UTC') - completed_at))::float8 \
         FROM operation_runs WHERE id = $1",
    )
    .bind(run.0)
    .fetch_one(bed.pg())
    .await
    .unwrap();
    assert!(off < 1800.0, "{off}");
    assert!(
        (held.claimed_at - stored.completed_at.unwrap())
            .num_seconds()
            .abs()
            < 1800
    );
    let recorded = bed.recorded(1).await;
    assert!(bed.run(recorded).await.created_at.is_some());
    assert_eq!(bed.listed().await, [recorded, run]);
    assert_eq!(bed.count(others).await, 4);
    let after = bed
        .dump(
            "(SELECT ctid, xmin, xmax, r AS r FROM operation_runs r \
                           WHERE type <> 'provider.connection.check')",
        )
        .await;
    assert_eq!(after, before);
}

/// The table has defaults for what is NULL in a new run: verifyd's own runs can be claimed all the same.
#[tokio::test]
async fn defaults_that_fill_a_new_run_are_overruled_and_named() {
    let bed = beside().await;
    bed.exec(
        "ALTER TABLE operation_runs ALTER outcome SET DEFAULT 'pending', \
         ALTER started_at SET DEFAULT now(), ALTER completed_at SET DEFAULT NULL::timestamp",
    )
    .await;
    bed.store.migrate().await.unwrap();
    let mut runs = vec![bed.recorded(1).await];
    let many = bed.store.record_many(&[new_run(2), new_run(3)]).await;
    runs.extend(many.unwrap());
    assert_eq!(bed.count("operation_runs").await, 4 + 3);
    for run in runs {
        assert_eq!(bed.run(run).await.started_at, None);
        bed.claim(run, "w1").await;
    }
    let writing = bed.store.try_writing().await.unwrap();
    assert!(matches!(writing, Writing::Accepted { .. }), "{writing:?}");
    let findings = bed.store.inspect().await.unwrap().into_iter();
    let of_columns = findings.filter(|finding| finding.subject.starts_with("operation_runs."));
    let remedies: Vec<String> = of_columns.map(|finding| finding.remedy).collect();
    let drop_default =
        |column: &str| format!("ALTER TABLE operation_runs ALTER COLUMN {column} DROP DEFAULT;");
    assert_eq!(remedies, ["outcome", "started_at"].map(drop_default));
}

#[tokio::test]
async fn connections_work_in_the_applications_tables() {
    let bed = beside().await;
    bed.store.migrate().await.unwrap();
    let tenants = bed.dump("tenants").await;
    let id = bed.connection_with(7, "a").await;
    bed.set_credential(id, "b").await;
    let (_, credential) = bed.store.connection(id).await.unwrap().unwrap();
    let credential = credential.unwrap();
    assert_eq!(credential.payload, sealed(id, "b").payload);
    let wanted = sealed(id, "b").expires_at.unwrap();
    assert!(
        (credential.expiry.at().unwrap() - wanted)
            .num_milliseconds()
            .abs()
            <= 1000
    );
    let tenant = Some(TenantId(7));
    let listed = bed.store.connections(tenant, None, 9).await.unwrap();
    assert_eq!(listed.len(), 2);
    // `tenants` is the application's: verifyd makes none there.
    assert_eq!(bed.dump("tenants").await, tenants);
}

#[tokio::test]
async fn overviews_are_read_from_the_applications_tables() {
    let bed = beside().await;
    bed.store.migrate().await.unwrap();
    let mut new = crate::store::fixtures::new_connection(7);
    new.display_name = Some("Of the application".into());
    let id = bed
        .store
        .add_connection(&new, None, operator())
        .await
        .unwrap();
    let context = crate::store::fixtures::context(id.0);
    let run = bed.insert(RUN_TYPE, "queued", &context).await;
    let store = &bed.store;
    let everything = Binding::EVERYTHING;
    let state = store.connection_state(id, &everything).await.unwrap();
    assert_eq!(state.unwrap().active_run_id, Some(run));
    let held = claim(store, run, "w1").await;
    let mut completion = succeeded();
    completion.connection = Some(id);
    assert!(store.complete(&held, &completion).await.unwrap());
    let filter = ConnectionFilter {
        overall: Some("ready".into()),
        limit: 10,
        ..ConnectionFilter::default()
    };
    let states = store.connection_states(&filter).await.unwrap();
    assert_eq!(states.len(), 1);
    assert_eq!(states[0].connection.id, id);
    let trend = store.trend(&[id], 5).await.unwrap();
    assert_eq!(trend[0].operation_run_id, run);
    assert_eq!(trend[0].overall.as_deref(), Some("ready"));
    // The application's own connection is counted, too.
    let counts = store.connection_counts(&everything).await.unwrap();
    assert_eq!((counts.ready, counts.total), (1, counts.never_checked + 1));
    let day = Duration::from_secs(86_400);
    let history = store.history(&everything, day, 24, 100).await.unwrap();
    assert_eq!(history.runs, 1);
    let waiting = store.longest_waiting(&everything, 5).await.unwrap();
    assert_eq!(waiting, []);
}

fn subjects(findings: &[SchemaFinding], fatal: bool) -> Vec<&str> {
    let chosen = findings.iter().filter(|f| f.fatal == fatal);
    chosen.map(|f| f.subject.as_str()).collect()
}

#[tokio::test]
async fn inspect_names_what_is_missing_and_proposes_the_indexes() {
    let bed = beside().await;
    bed.store.migrate().await.unwrap();
    let findings = bed.store.inspect().await.unwrap();
    assert_eq!(subjects(&findings, true), Vec::<&str>::new());
    assert_eq!(subjects(&findings, false), ["operation_runs"; 2]);
    for finding in findings {
        bed.exec(&finding.remedy.replace(" CONCURRENTLY", "")).await;
    }
    assert_eq!(bed.store.inspect().await.unwrap(), []);

    bed.exec(
        "ALTER TABLE operation_runs DROP COLUMN outcome; \
         ALTER TABLE operation_runs ALTER COLUMN failure_summary DROP DEFAULT, \
             ALTER COLUMN failure_summary TYPE json; \
         ALTER TABLE provider_connections ALTER COLUMN tenant_id TYPE integer; \
         ALTER TABLE tenant_permissions DROP CONSTRAINT tenant_permissions_pkey; \
         CREATE UNIQUE INDEX ON tenant_permissions (tenant_id, permission_key) \
             WHERE status = 'granted'; \
         DROP TABLE verifyd.run_deliveries",
    )
    .await;
    let findings = bed.store.inspect().await.unwrap();
    assert_eq!(
        subjects(&findings, true),
        [
            "verifyd.run_deliveries",
            "operation_runs.outcome",
            "operation_runs.failure_summary",
            "provider_connections.tenant_id",
            "tenant_permissions (tenant_id, permission_key)",
        ]
    );
    assert_eq!(findings[1].problem, "the column is missing");
    assert_eq!(findings[2].problem, "the type is json, needed: jsonb");
}

/// With a role called `verifyd`, `"$user"` puts the schema of that name first in the search path.
#[tokio::test]
async fn a_role_named_like_the_schema_gets_its_tables_where_others_look() {
    let bed = Bed::empty_postgres().await;
    let path = "options=-c%20search_path%3Dverifyd,public";
    let store = bed.connect_as(|url| url.set_query(Some(path))).await;
    let migrated = store.migrate().await.unwrap();
    assert!(
        migrated.owned.iter().any(|t| t == "public.operation_runs"),
        "{migrated:?}"
    );
    assert_eq!(store.migrate().await.unwrap().owned, migrated.owned);
    let run = bed.queued().await;
    assert!(store.run(run).await.unwrap().is_some());
    assert_eq!(store.inspect().await.unwrap(), []);
}

/// Where the application's schema is another than `public`.
#[tokio::test]
async fn the_search_path_says_where_the_application_is() {
    let bed = Bed::empty_postgres().await;
    bed.exec("CREATE SCHEMA app; SET search_path = app; ").await;
    bed.exec(&format!(
        "SET search_path = app; {APPLICATION} RESET search_path;"
    ))
    .await;
    let path = "options=-c%20search_path%3Dapp";
    let store = bed.connect_as(|url| url.set_query(Some(path))).await;
    let migrated = store.migrate().await.unwrap();
    assert!(
        migrated.foreign.iter().any(|t| t == "app.operation_runs"),
        "{migrated:?}"
    );
    assert!(
        migrated.owned.iter().any(|t| t == "app.tenant_permissions"),
        "{migrated:?}"
    );
}

/// Following a wrong remedy would move the application to the tables of another one.
#[tokio::test]
async fn a_missing_table_is_not_sought_in_the_schema_of_another_application() {
    let bed = Bed::postgres().await;
    bed.exec("CREATE SCHEMA staging; CREATE TABLE staging.operation_runs (id bigint)")
        .await;
    bed.exec("CREATE TABLE staging.tenants (id bigint); DROP TABLE tenants")
        .await;
    let findings = bed.store.inspect().await.unwrap();
    let [missing] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert_eq!(missing.subject, "tenants");
    assert_eq!(missing.problem, "the table is missing");

    let bed = Bed::empty_postgres().await;
    bed.exec("CREATE SCHEMA shop; CREATE TABLE shop.tenants (id bigint)")
        .await;
    let findings = bed.store.inspect().await.unwrap();
    let missing = findings.iter().find(|f| f.subject == "tenants").unwrap();
    assert_eq!(missing.problem, "the table is missing");
    assert_eq!(missing.remedy, "run: verifyd migrate");
}

/// A session behind a transaction pooler keeps nothing: statements without names, and no limit
/// that outlives its transaction.
#[tokio::test]
async fn nothing_is_left_in_the_session() {
    let bed = Bed::postgres().await;
    let mut url: url::Url = bed.url().parse().unwrap();
    url.set_query(Some("statement-cache-capacity=0&application_name=pooled"));
    let mut settings = settings(url.as_str());
    settings.max_connections = 1;
    let store = verifyd::store::connect(&settings).await.unwrap();
    let run = bed.queued().await;
    let held = claim(&store, run, "w1").await;
    assert!(store.complete(&held, &succeeded()).await.unwrap());
    store.sweep(&SWEEP).await.unwrap();
    store.inspect().await.unwrap();
    let locks: i64 = sqlx::query_scalar(AssertSqlSafe(
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
         WHERE a.application_name = 'pooled' AND a.datname = current_database()"
            .to_owned(),
    ))
    .fetch_one(bed.pg())
    .await
    .unwrap();
    assert_eq!(locks, 0);
}
