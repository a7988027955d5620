//! verifyd under the roles of `deploy/postgres-grants.sql`: all of it works, and nothing else does.

use crate::pages::person::Person;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use test_support::bench::Bench;
use test_support::waiting::until;
use verifyd_simulator::{Scenario, SimulatorOptions};

/// What the server says to this statement by this role: its error code, or nothing.
async fn refused(bench: &Bench, role: &str, statement: &str) -> Option<String> {
    let mut connection = PgConnection::connect(&bench.url_of(role)).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let result = tx.execute(sqlx::AssertSqlSafe(statement.to_owned())).await;
    tx.rollback().await.unwrap();
    match result {
        Ok(_) => None,
        Err(sqlx::Error::Database(error)) => error.code().map(|code| code.into_owned()),
        Err(error) => panic!("{role}: {statement}: {error}"),
    }
}

/// Whoever owns the database and is no superuser needs the role that owns what `migrate` has made.
#[tokio::test(flavor = "multi_thread")]
async fn the_grants_say_whose_member_has_to_apply_them() {
    const GRANTS: &str = include_str!("../../../deploy/postgres-grants.sql");
    let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
    let url = bench.database.url();
    let name = url.rsplit('/').next().unwrap();
    let owner = format!("{name}_owner");
    bench
        .execute(&format!(
            "CREATE ROLE {owner} LOGIN CREATEROLE; ALTER DATABASE {name} OWNER TO {owner}"
        ))
        .await;
    let mut applying = PgConnection::connect(&bench.url_of(&owner)).await.unwrap();
    bench.grant().await;
    sqlx::raw_sql(GRANTS).execute(&mut applying).await.unwrap();
    bench.become_role("verifyd_migrate");
    bench.success(&["migrate"]);
    let refused = sqlx::raw_sql(GRANTS).execute(&mut applying).await;
    let said = refused.unwrap_err().to_string();
    let belong = "tables belong to the role verifyd_migrate, of which the role ";
    assert!(said.contains(belong), "{said}");
    bench
        .execute(&format!("GRANT verifyd_migrate TO {owner}"))
        .await;
    sqlx::raw_sql(GRANTS).execute(&mut applying).await.unwrap();
    bench.become_role("verifyd_serve");
    bench.success(&["doctor"]);
    bench
        .execute(&format!(
            "REVOKE verifyd_migrate FROM {owner}; ALTER DATABASE {name} OWNER TO CURRENT_USER; \
             DROP ROLE {owner}"
        ))
        .await;
}

/// The statement that overrules one default names all that has to be empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_default_that_fills_new_runs_is_overruled_by_the_roles() {
    let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
    bench
        .execute(
            "CREATE TABLE operation_runs (id bigserial PRIMARY KEY, workspace_id bigint NOT NULL,
                 tenant_id bigint, type text NOT NULL, status text NOT NULL DEFAULT 'queued',
                 outcome text DEFAULT 'pending', context jsonb, failure_summary jsonb,
                 created_at timestamp, started_at timestamp, completed_at timestamp)",
        )
        .await;
    bench.grant().await;
    bench.become_role("verifyd_migrate");
    bench.success(&["migrate"]);
    bench.grant().await;
    bench.become_role("verifyd_operator");
    let connection = bench.healthy(1).to_string();
    bench.json(&["enqueue", "--connection", &connection]);
    let claimable = "SELECT count(*) FROM operation_runs WHERE outcome IS NULL";
    assert_eq!(bench.numbers(claimable).await, [1]);
}

/// What is printed mends the table, in the order of docs/guides/deploy.md.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_all_columns_is_granted_and_migrate_lists_what_is_missing() {
    let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
    bench
        .execute(
            "CREATE TABLE operation_runs (id bigserial PRIMARY KEY, workspace_id bigint NOT NULL,
                 tenant_id bigint, type text NOT NULL, status text NOT NULL);
             CREATE TABLE verification_check_acknowledgements (id bigserial PRIMARY KEY);
             CREATE TABLE tenant_onboarding_sessions (id bigserial PRIMARY KEY)",
        )
        .await;
    bench.grant().await;
    bench.become_role("verifyd_migrate");
    let refused = bench.run(&["migrate"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for column in [
        "operation_runs.outcome",
        "operation_runs.context",
        "operation_runs.failure_summary",
        "operation_runs.created_at",
        "operation_runs.started_at",
        "operation_runs.completed_at",
        "verification_check_acknowledgements.check_key",
        "verification_check_acknowledgements.withdrawn_by",
        "tenant_onboarding_sessions.state",
    ] {
        let missing = format!("{column}: the column is missing. ");
        assert!(said.contains(&missing), "{column}: {said}");
    }
    let statements = said
        .lines()
        .filter_map(|line| line.split_once(": the column is missing. "));
    for (_, statement) in statements {
        bench.execute(statement).await;
    }
    bench.success(&["migrate"]);
    bench.grant().await;
}

/// insufficient_privilege
const FORBIDDEN: Option<&str> = Some("42501");

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_under_its_role_in_postgresql_and_no_role_can_do_more() {
    let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
    // What belongs to nobody's business here.
    bench
        .execute("CREATE TABLE payroll (id bigint, salary bigint)")
        .await;
    bench.grant().await;
    bench.become_role("verifyd_migrate");
    bench.success(&["migrate"]);
    bench.grant().await;
    // Again, as after every later migration.
    bench.success(&["migrate"]);
    bench.grant().await;

    bench.become_role("verifyd_operator");
    let healthy = bench.healthy(1);
    let refusing = bench.connection(2, &Scenario::SecretExpired.tenant_id(1), "health_check");
    for arguments in [
        ["connections", "disable", "1"],
        ["connections", "enable", "1"],
        ["connections", "list", "--json"],
        ["connections", "rotate-keys", "--json"],
    ] {
        bench.success(&arguments);
    }
    let trail = bench.json(&["audit", "list", "--object", "connection", "--id", "1"]);
    assert_eq!(trail[0]["action"], "connection.enabled", "{trail}");

    // A name that leads to loopback and is configured no longer: the attempt to send is recorded, and ends at once.
    let loopback = "VERIFYD__WEBHOOKS__LOOPBACK_HOSTS";
    bench.set(loopback, "localhost");
    let hook = "https://localhost/hook";
    let endpoint = bench.json(&["webhooks", "add", "--workspace", "1", "--url", hook]);
    bench.set(loopback, "");
    let endpoint = endpoint["endpoint"]["id"].to_string();
    for arguments in [
        &["webhooks", "rotate-secret", &endpoint][..],
        &["webhooks", "disable", &endpoint],
        &["webhooks", "enable", &endpoint],
        &["webhooks", "list"],
    ] {
        bench.success(arguments);
    }

    bench.become_role("verifyd_serve");
    bench.success(&["doctor"]);
    let mut daemon = bench.serve(&[]);

    bench.become_role("verifyd_operator");
    for id in [healthy, refusing] {
        bench.enqueue(id);
    }
    let mut producer = PgConnection::connect(&bench.url_of("verifyd_producer"))
        .await
        .unwrap();
    let context = json!({
        "provider": "microsoft", "module": "health_check", "provider_connection_id": healthy,
        "target_scope": {"entra_tenant_id": Scenario::Healthy.tenant_id(1)},
    });
    let recorded: i64 = sqlx::query_scalar(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
         VALUES (1, 1, 'provider.connection.check', 'queued', $1, now()) RETURNING id",
    )
    .bind(context)
    .fetch_one(&mut producer)
    .await
    .unwrap();
    bench.all_completed().await;
    daemon.ready().await;
    let outcome: String = sqlx::query_scalar("SELECT outcome FROM operation_runs WHERE id = $1")
        .bind(recorded)
        .fetch_one(&mut producer)
        .await
        .unwrap();
    assert_eq!(outcome, "succeeded");
    bench.json(&["runs", "show", &recorded.to_string()]);
    until("three deliveries were tried", async || {
        let sent = bench.json(&["webhooks", "deliveries"]);
        let sent = sent.as_array().unwrap();
        sent.len() == 3 && sent.iter().all(|d| d["last_result"] == "address_refused")
    })
    .await;
    let sent = bench.json(&["webhooks", "deliveries"])[0]["id"].to_string();
    for arguments in [
        &["webhooks", "attempts", &sent][..],
        &["webhooks", "replay", &sent],
        &["webhooks", "remove", &endpoint],
    ] {
        bench.success(arguments);
    }
    people_say_something(&bench, &refusing.to_string()).await;
    the_api_is_used(&bench, &daemon.listening, refusing).await;
    daemon.terminate();

    bench.become_role("verifyd_prune");
    let all = bench.count("operation_runs").await;
    let would = bench.json(&["prune", "--older-than", "1s", "--dry-run"]);
    // Of each of the two connections one run stays; how many of the others are old enough by now
    // is a matter of how fast the machine is.
    assert!(would["runs"].as_i64().unwrap() <= all - 2, "{would}");
    // The first run of each connection; its latest report stays.
    until("the old ones are deleted", async || {
        bench.success(&["prune", "--older-than", "1s"]);
        bench.count("operation_runs").await == 2
    })
    .await;
    // Somebody else deletes a run: its attempts go with the next pruning.
    bench
        .execute("DELETE FROM verification_check_acknowledgements; DELETE FROM operation_runs")
        .await;
    bench
        .execute(
            "INSERT INTO verifyd.audit_entries (at, action, object, surface, actor) \
             VALUES ('2020-01-01T00:00:00Z', 'token.created', 'token', 'cli', 'somebody')",
        )
        .await;
    let strays = bench.json(&["prune", "--older-than", "1h", "--audit-older-than", "30d"]);
    assert_eq!(strays["runs"], 0);
    assert_eq!(strays["audit_entries"], 1, "{strays}");
    assert!(strays["attempts"].as_i64().unwrap() >= 2, "{strays}");
    assert_eq!(bench.count("verifyd.run_attempts").await, 0);
    let printed = bench.printed.lock().unwrap().clone();
    assert!(!printed.contains("permission denied"), "{printed}");

    for (role, statements) in [
        (
            "verifyd_serve",
            &[
                "DROP TABLE operation_runs",
                "DROP TABLE verifyd.run_attempts",
                "TRUNCATE verifyd.run_attempts",
                "ALTER TABLE operation_runs ADD COLUMN x int",
                "CREATE TABLE mine (id int)",
                "CREATE TABLE verifyd.mine (id int)",
                "CREATE TEMPORARY TABLE mine (id int)",
                "CREATE SCHEMA mine",
                "SELECT * FROM payroll",
                "INSERT INTO payroll VALUES (1, 1)",
                "DELETE FROM operation_runs",
                "INSERT INTO operation_runs (workspace_id, type, outcome) VALUES (1, 'x', 'failed')",
                "UPDATE operation_runs SET tenant_id = 2",
                "UPDATE operation_runs SET type = 'x'",
                "INSERT INTO provider_connections (workspace_id, tenant_id, provider) VALUES (1, 1, 'x')",
                "UPDATE provider_connections SET entra_tenant_id = 'x'",
                "UPDATE provider_credentials SET payload = 'x'",
                "DELETE FROM provider_credentials",
                "DELETE FROM tenant_permissions",
                "UPDATE verification_check_acknowledgements SET reason = 'x'",
                "DELETE FROM verification_check_acknowledgements",
                "UPDATE verifyd.acknowledgement_actors SET name = 'x'",
                "DELETE FROM verifyd.acknowledgement_actors",
                "INSERT INTO verifyd.audit_entries (id, action, object, surface, actor) OVERRIDING SYSTEM VALUE VALUES (9, 'x', 'x', 'x', 'x')",
                "INSERT INTO verifyd.audit_entries (at, action, object, surface, actor) VALUES ('infinity', 'x', 'x', 'x', 'x')",
                "SELECT nextval('verifyd.audit_entries_id_seq')",
                "UPDATE verifyd.audit_entries SET actor = 'x'",
                "DELETE FROM verifyd.audit_entries",
                "TRUNCATE verifyd.audit_entries",
                "UPDATE tenant_onboarding_sessions SET tenant_id = 2",
                "INSERT INTO tenants (workspace_id) VALUES (1)",
                "UPDATE verifyd.schema_migrations SET success = false",
                "DELETE FROM verifyd.owned_tables",
                "DELETE FROM verifyd.sweep_lock",
                "INSERT INTO verifyd.api_tokens (id, name, token_hash, scopes) VALUES (9, 'x', repeat('a', 64), 'admin')",
                "UPDATE verifyd.api_tokens SET token_hash = repeat('b', 64)",
                "UPDATE verifyd.api_tokens SET revoked_at = NULL",
                "DELETE FROM verifyd.api_tokens",
                "INSERT INTO verifyd.webhook_endpoints (workspace_id, url, changed_only, secret) VALUES (1, 'x', false, 'x')",
                "UPDATE verifyd.webhook_endpoints SET url = 'x'",
                "UPDATE verifyd.webhook_endpoints SET secret = 'x'",
                "DELETE FROM verifyd.webhook_endpoints",
                "CREATE ROLE somebody",
            ][..],
        ),
        (
            "verifyd_operator",
            &[
                "DROP TABLE operation_runs",
                "SELECT * FROM payroll",
                "UPDATE operation_runs SET status = 'completed'",
                "DELETE FROM operation_runs",
                "UPDATE verifyd.run_attempts SET token = gen_random_uuid()",
                "INSERT INTO verifyd.webhook_deliveries (endpoint_id, message_id, operation_run_id, payload) VALUES (1, 'x', 1, '{}')",
                "DELETE FROM provider_connections",
                "UPDATE verification_check_acknowledgements SET reason = 'x'",
                "DELETE FROM verification_check_acknowledgements",
                "UPDATE verifyd.acknowledgement_actors SET name = 'x'",
                "DELETE FROM verifyd.acknowledgement_actors",
                "INSERT INTO verifyd.audit_entries (at, action, object, surface, actor) VALUES ('infinity', 'x', 'x', 'x', 'x')",
                "UPDATE verifyd.audit_entries SET actor = 'x'",
                "DELETE FROM verifyd.audit_entries",
                "TRUNCATE verifyd.audit_entries",
                "DELETE FROM verifyd.carried_acknowledgements",
                "SELECT FROM verifyd.sweep_lock FOR SHARE",
                "UPDATE verifyd.latest_reports SET fingerprint = 'x'",
                "UPDATE tenant_onboarding_sessions SET tenant_id = 2",
            ],
        ),
        (
            "verifyd_prune",
            &[
                "DROP TABLE operation_runs",
                "TRUNCATE operation_runs",
                "SELECT context FROM operation_runs",
                "SELECT * FROM provider_connections",
                "SELECT * FROM provider_credentials",
                "SELECT * FROM tenant_permissions",
                "SELECT * FROM payroll",
                "UPDATE operation_runs SET status = 'queued'",
                "UPDATE operation_runs SET outcome = 'succeeded'",
                "UPDATE verifyd.run_attempts SET token = gen_random_uuid()",
                "DELETE FROM verifyd.latest_reports",
                "SELECT actor FROM verifyd.audit_entries",
                "INSERT INTO verifyd.audit_entries (action, object, surface, actor) VALUES ('x', 'x', 'x', 'x')",
                "DELETE FROM verifyd.workers",
                "SELECT FROM verifyd.sweep_lock FOR SHARE",
                "DELETE FROM provider_credentials",
                "INSERT INTO operation_runs (workspace_id, type) VALUES (1, 'x')",
            ],
        ),
        (
            "verifyd_producer",
            &[
                "SELECT * FROM provider_credentials",
                "SELECT * FROM provider_connections",
                "SELECT * FROM verifyd.run_attempts",
                "SELECT * FROM verifyd.webhook_endpoints",
                "SELECT FROM verifyd.sweep_lock FOR SHARE",
                "SELECT * FROM payroll",
                "UPDATE operation_runs SET status = 'queued'",
                "DELETE FROM operation_runs",
                "INSERT INTO operation_runs (workspace_id, type, status, outcome) VALUES (1, 'x', 'completed', 'failed')",
                "DROP TABLE operation_runs",
            ],
        ),
        (
            "verifyd_migrate",
            &[
                "SELECT * FROM payroll",
                "DROP TABLE payroll",
                "CREATE ROLE somebody",
            ],
        ),
    ] {
        for statement in statements {
            let code = refused(&bench, role, statement).await;
            assert_eq!(code.as_deref(), FORBIDDEN, "{role}: {statement}");
        }
    }
    // The test can tell a permitted statement from a forbidden one.
    let permitted = "UPDATE operation_runs SET status = status";
    assert_eq!(refused(&bench, "verifyd_serve", permitted).await, None);
    // What records people who sign in.
    for permitted in [
        "INSERT INTO verifyd.api_tokens (name, token_hash, scopes, workspace_id, tenant_id, expires_at)
         VALUES ('x', repeat('a', 64), 'read', NULL, NULL, now())
         ON CONFLICT (token_hash) DO NOTHING RETURNING id",
        "SELECT id FROM verifyd.api_tokens FOR UPDATE",
        "UPDATE verifyd.api_tokens SET name = 'x', scopes = 'read', workspace_id = NULL, tenant_id = NULL,
             expires_at = now() WHERE revoked_at IS NULL RETURNING id",
        "DELETE FROM verifyd.page_sessions WHERE token_id = 1",
    ] {
        let code = refused(&bench, "verifyd_serve", permitted).await;
        assert_eq!(code, None, "{permitted}");
    }
}

/// The table of another application is its owner's: verifyd's guards are added with its owner's
/// right, which is lent for the time of the command.
#[tokio::test(flavor = "multi_thread")]
async fn guards_are_added_to_another_application_s_table_by_its_owner_s_right() {
    let mut bench = Bench::unmigrated(SimulatorOptions::default()).await;
    bench.grant().await;
    bench.become_role("verifyd_migrate");
    let enforced = ["migrate", "--enforce"];
    // On its own tables it needs nothing else.
    bench.success(&enforced);

    // Roles belong to the whole server.
    let url = bench.database.url();
    let owner = format!("owner_of_{}", url.rsplit('/').next().unwrap());
    let unguarded = format!(
        "CREATE ROLE {owner};
         ALTER TABLE operation_runs OWNER TO {owner};
         DELETE FROM verifyd.owned_tables WHERE table_name = 'operation_runs';
         DROP TRIGGER verifyd_guard_completed_run ON operation_runs;
         DROP TRIGGER verifyd_guard_run_identity ON operation_runs;
         ALTER TABLE operation_runs DROP CONSTRAINT operation_runs_check_outcome,
             DROP CONSTRAINT operation_runs_check_blocked;
         DROP INDEX operation_runs_check_active, operation_runs_check_turns;"
    );
    bench.execute(&unguarded).await;
    bench.grant().await;
    let output = bench.run(&enforced);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the rights of the owner"), "{said}");
    assert!(said.contains("(GRANT owner TO verifyd_migrate)"), "{said}");

    let lend = format!("GRANT {owner} TO verifyd_migrate");
    bench.execute(&lend).await;
    bench.success(&enforced);
    let take_back = format!("REVOKE {owner} FROM verifyd_migrate");
    bench.execute(&take_back).await;
    let there = "SELECT count(*) FROM pg_trigger
        WHERE tgrelid = 'operation_runs'::regclass AND tgname LIKE 'verifyd_guard%'";
    assert_eq!(bench.numbers(there).await, [2]);
    bench.become_role("verifyd_serve");
    bench.success(&["doctor"]);
}

/// Acknowledges, starts a check for an onboarding session, sees what was inherited, and withdraws.
async fn people_say_something(bench: &Bench, connection: &str) {
    let runs = bench.json(&["runs", "list", "--connection", connection]);
    let run = runs[0]["operation_run_id"].to_string();
    let shown = bench.json(&["runs", "show", &run]);
    let key = shown["view"]["report"]["report"]["problems"][0]["key"].clone();
    let key = key.as_str().expect("something is wrong");
    let made = bench.json(&["acknowledge", &run, key, "--reason", "known"]);
    let id = made["acknowledgement"]["id"].to_string();
    bench
        .execute("INSERT INTO tenant_onboarding_sessions (id, workspace_id) VALUES (1, 1)")
        .await;
    let enqueue = ["enqueue", "--connection", connection];
    let next = bench.json(&[&enqueue[..], &["--onboarding-session", "1"]].concat());
    let next = &next["operation_run_id"];
    bench.all_completed().await;
    let session = bench.json(&["onboarding", "show", "1"]);
    assert_eq!(session["verification_operation_run_id"], *next);
    let problem = &session["run"]["view"]["report"]["report"]["problems"][0];
    assert_eq!(problem["acknowledgement"]["id"].to_string(), id);
    bench.json(&["acknowledgements", "withdraw", &id]);
}

/// Logging in, every page, and logging out.
async fn the_pages_are_seen(bench: &Bench, address: &str) {
    let token = bench.token(&["read", "run", "admin", "audit"]);
    let person = Person::logged_in(&format!("http://{address}"), &token).await;
    // `doctor` has taken the first number, and rolled back.
    let run = bench.numbers("SELECT min(id) FROM operation_runs").await[0];
    let run = format!("/runs/{run}");
    for path in [
        "/connections",
        "/connections/1",
        "/runs",
        run.as_str(),
        "/workers",
        "/audit",
        "/",
    ] {
        person.page(path).await;
    }
    let csrf = person.csrf().await;
    let answer = person.post("/logout", &[("csrf", &csrf)]).await;
    assert_eq!(answer.status(), 303);
}

/// Everything that the API writes, with a token that the operator makes and revokes.
async fn the_api_is_used(bench: &Bench, address: &str, connection: i64) {
    let made = bench.json(&["tokens", "create", "--name", "x", "--scope", "run"]);
    let (id, token) = (made["id"].to_string(), made["token"].as_str().unwrap());
    let client = reqwest::Client::new();
    let post = async |path: &str, body: Value| {
        let request = client
            .post(format!("http://{address}{path}"))
            .bearer_auth(token)
            .header("idempotency-key", path);
        let answer = request.json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let path = format!("/v1/connections/{connection}/checks");
    let (status, body) = post(&path, json!({ "onboarding_session_id": 1 })).await;
    assert_eq!(status, 201, "{body}");
    bench.all_completed().await;
    let started: Value = serde_json::from_str(&body).unwrap();
    let run = started["run"]["operation_run_id"].to_string();
    let shown = bench.json(&["runs", "show", &run]);
    let key = shown["view"]["report"]["report"]["problems"][0]["key"].clone();
    let path = format!("/v1/runs/{run}/acknowledgements");
    let (status, body) = post(&path, json!({ "check_key": key, "reason": "known" })).await;
    assert_eq!(status, 201, "{body}");
    let made: Value = serde_json::from_str(&body).unwrap();
    let path = format!(
        "/v1/acknowledgements/{}/withdrawal",
        made["acknowledgement"]["id"]
    );
    let (status, body) = post(&path, json!({})).await;
    assert_eq!(status, 200, "{body}");
    the_pages_are_seen(bench, address).await;
    bench.json(&["tokens", "revoke", &id]);
    assert_eq!(post(&path, json!({})).await.0, 401);
}
