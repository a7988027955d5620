//! The privileges that `verifyd doctor` names, and what hides rows from its role.

use crate::daemon::doctor::{examined, statement};
use sqlx::AssertSqlSafe;
use test_support::bench::Bench;

/// What a role may do with tables and their columns.
async fn privileges(bench: &Bench, role: &str) -> Vec<String> {
    let granted = format!(
        "SELECT DISTINCT concat_ws(' ', table_schema, table_name, column_name, privilege_type) FROM (
             SELECT grantee, table_schema, table_name, column_name, privilege_type
             FROM information_schema.column_privileges
             UNION ALL
             SELECT grantee, table_schema, table_name, NULL, privilege_type
             FROM information_schema.table_privileges) AS granted
         WHERE grantee = '{role}' AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
         ORDER BY 1"
    );
    sqlx::query_scalar(AssertSqlSafe(granted))
        .fetch_all(&mut bench.sql().await)
        .await
        .unwrap()
}

/// The name of the database: roles belong to the whole server.
fn name(bench: &Bench) -> String {
    let url = bench.database.url();
    url.rsplit('/').next().unwrap().to_owned()
}

/// A role that has nothing gets from `doctor` what `deploy/postgres-grants.sql` grants to that of `serve`.
#[tokio::test(flavor = "multi_thread")]
async fn the_privileges_that_doctor_names_are_those_that_are_granted() {
    let mut bench = Bench::new().await;
    bench.healthy(1);
    bench.grant().await;
    let role = format!("{}_plain", name(&bench));
    // Without it `doctor` ends before it looks at tables.
    bench
        .execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA verifyd TO {role}"
        ))
        .await;
    bench.become_role(&role);
    let (code, bad) = examined(&bench);
    assert_eq!(code, 1);
    for (part, found, remedy) in &bad {
        assert_eq!(part, "schema", "{found}");
        assert!(found.contains(": the privilege is missing: "), "{found}");
        bench.execute(statement(remedy)).await;
    }
    assert_eq!(examined(&bench), (0, vec![]));
    let granted = privileges(&bench, &role).await;
    assert_eq!(granted, privileges(&bench, "verifyd_serve").await);

    // Without this one the version of the schema is not known.
    bench
        .execute(&format!(
            "REVOKE SELECT ON verifyd.schema_migrations FROM {role}"
        ))
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (1, "schema"));
    let missing = "verifyd.schema_migrations: the privilege is missing: SELECT";
    assert_eq!(found, missing);
    bench.execute(statement(remedy)).await;
    assert_eq!(examined(&bench), (0, vec![]));

    // What `serve` can do without is a warning.
    for (revoked, said) in [
        (
            "INSERT ON verification_check_acknowledgements",
            "verification_check_acknowledgements: the privilege is missing: INSERT; this role can acknowledge nothing",
        ),
        (
            "UPDATE (withdrawn_by) ON verification_check_acknowledgements",
            "verification_check_acknowledgements: the privilege is missing: UPDATE; this role can withdraw no",
        ),
        (
            "UPDATE ON tenant_onboarding_sessions",
            "tenant_onboarding_sessions: the privilege is missing: UPDATE; this role can start no check of an",
        ),
        (
            "INSERT ON verifyd.api_tokens",
            "verifyd.api_tokens: the privilege is missing: INSERT; nobody can sign in",
        ),
        (
            "UPDATE (scopes) ON verifyd.api_tokens",
            "verifyd.api_tokens: the privilege is missing: UPDATE; nobody can sign in",
        ),
    ] {
        bench
            .execute(&format!("REVOKE {revoked} FROM {role}"))
            .await;
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{revoked}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (0, "schema"));
        assert!(found.starts_with(said), "{found}");
        bench.execute(statement(remedy)).await;
        assert_eq!(examined(&bench), (0, vec![]));
    }
    bench
        .execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

/// `migrate` would not help, and adds nothing a second time.
#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_that_hides_the_migrations_is_named() {
    let mut bench = Bench::new().await;
    bench.grant().await;
    bench
        .execute("ALTER TABLE verifyd.schema_migrations ENABLE ROW LEVEL SECURITY")
        .await;
    bench.become_role("verifyd_serve");
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (1, "schema"));
    let applies = "verifyd.schema_migrations: row-level security applies to the role verifyd_serve, and no policy";
    assert!(found.starts_with(applies), "{found}");
    let hidden = "row-level security hides every row of verifyd.schema_migrations";
    let serve = bench.run(&["serve"]);
    let said = String::from_utf8_lossy(&serve.stderr);
    assert_eq!(serve.status.code(), Some(1), "{said}");
    assert!(said.contains(hidden), "{said}");
    assert!(!said.contains("verifyd migrate"), "{said}");

    let admitted = "CREATE POLICY reads ON verifyd.schema_migrations FOR SELECT USING (true)";
    bench.execute(admitted).await;
    assert_eq!(examined(&bench), (0, vec![]));
    bench.execute(statement(remedy)).await;
    assert_eq!(examined(&bench), (0, vec![]));
}

/// The rule is the same for every table that a check reads or writes.
#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_that_hides_rows_is_mended_by_what_is_printed() {
    let mut bench = Bench::new().await;
    bench.healthy(1);
    bench.grant().await;
    bench.become_role("verifyd_serve");
    let admit = |table: &str| {
        format!("CREATE POLICY admits_verifyd_serve ON {table} TO verifyd_serve USING (true);")
    };
    for (table, exit) in [
        ("provider_connections", 1),
        ("provider_credentials", 1),
        ("operation_runs", 1),
        ("tenant_permissions", 1),
        ("verification_check_acknowledgements", 1),
        ("verifyd.latest_reports", 1),
        ("verifyd.tenant_inventory", 1),
        ("verifyd.connection_facts", 1),
        ("verifyd.sweep_lock", 1),
        ("tenants", 0),
        ("tenant_onboarding_sessions", 0),
    ] {
        let security = format!("ALTER TABLE {table}");
        bench
            .execute(&format!("{security} ENABLE ROW LEVEL SECURITY"))
            .await;
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{table}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (exit, "schema"), "{table}");
        let applies = format!(
            "{table}: row-level security applies to the role verifyd_serve, and no policy admits it: SELECT"
        );
        assert!(found.starts_with(&applies), "{found}");
        let mended = match table.starts_with("verifyd.") {
            true => format!("{security} DISABLE ROW LEVEL SECURITY;"),
            false => admit(table),
        };
        assert_eq!(statement(remedy), mended);
        bench.execute(&mended).await;
        assert_eq!(examined(&bench), (0, vec![]), "{table}");
    }

    // Rows of a workspace may come later. Without its setting, `current_setting` fails.
    for (admitted, exit, said) in [
        (
            "workspace_id = 2",
            0,
            "hides the rows that are there from it",
        ),
        (
            "tenant_id = current_setting('app.tenant')::bigint",
            1,
            "reading the table fails (SQLSTATE 42704)",
        ),
    ] {
        bench
            .execute(&format!(
                "DROP POLICY admits_verifyd_serve ON provider_connections;
                 CREATE POLICY of_some ON provider_connections USING ({admitted});
                 ANALYZE provider_connections"
            ))
            .await;
        let (code, bad) = examined(&bench);
        let [(part, found, remedy), ..] = &bad[..] else {
            panic!("{bad:?}")
        };
        assert_eq!((code, part.as_str()), (exit, "schema"), "{bad:?}");
        assert!(found.ends_with(said), "{found}");
        assert_eq!(statement(remedy), admit("provider_connections"));
        bench.execute(statement(remedy)).await;
        bench
            .execute("DROP POLICY of_some ON provider_connections")
            .await;
        assert_eq!(examined(&bench), (0, vec![]));
    }
    bench
        .execute(
            "CREATE POLICY of_one ON provider_connections AS RESTRICTIVE USING (tenant_id = 1)",
        )
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "schema"));
    assert!(found.contains("but those that a policy admits"), "{found}");
    assert!(remedy.contains("policies (of_one)"), "{remedy}");
    bench
        .execute("DROP POLICY of_one ON provider_connections")
        .await;

    // A policy that reads its own table.
    bench
        .execute(
            "DROP POLICY admits_verifyd_serve ON provider_connections;
             CREATE POLICY of_itself ON provider_connections
             USING (tenant_id IN (SELECT tenant_id FROM provider_connections))",
        )
        .await;
    let (code, bad) = examined(&bench);
    let (part, found, remedy) = &bad[0];
    assert_eq!((code, part.as_str()), (1, "schema"), "{bad:?}");
    assert!(found.ends_with("fails (SQLSTATE 42P17)"), "{found}");
    assert!(remedy.contains("correct or drop"), "{remedy}");
    bench
        .execute("DROP POLICY of_itself ON provider_connections")
        .await;
    bench.execute(&admit("provider_connections")).await;

    // Whatever time a policy takes, the others are examined.
    bench
        .execute("INSERT INTO tenants (id, workspace_id) VALUES (100, 1)")
        .await;
    bench
        .execute(
            "ANALYZE tenants;
             DROP POLICY admits_verifyd_serve ON tenants;
             CREATE POLICY slow ON tenants USING (pg_sleep(3600) IS NULL)",
        )
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "schema"));
    assert!(found.contains("but those that a policy admits"), "{found}");
    bench.execute(statement(remedy)).await;
    bench.execute("DROP POLICY slow ON tenants").await;
    assert_eq!(examined(&bench), (0, vec![]));

    // Beside policies a trigger may keep the run as it is.
    bench
        .execute(
            "CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER kept BEFORE UPDATE ON operation_runs FOR EACH ROW EXECUTE FUNCTION kept()",
        )
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (1, "writing"));
    let kept =
        "claiming a run: row-level security or a trigger keeps the row of operation_runs as it is";
    assert!(found.contains(kept), "{found}");
    for advice in ["CREATE POLICY", "the trigger that keeps the row"] {
        assert!(remedy.contains(advice), "{remedy}");
    }
}

/// A policy that reads a setting which the sessions of verifyd do not have, and one whose name is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_for_updates_is_no_fault_of_the_options() {
    let mut bench = Bench::new().await;
    bench.healthy(1);
    bench.grant().await;
    bench.become_role("verifyd_serve");
    bench
        .execute(
            "ALTER TABLE operation_runs ENABLE ROW LEVEL SECURITY;
             CREATE POLICY admits_verifyd_serve ON operation_runs TO verifyd_producer USING (true)",
        )
        .await;
    let (code, bad) = examined(&bench);
    let [(part, _, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (1, "schema"));
    let create =
        "CREATE POLICY admits_2_verifyd_serve ON operation_runs TO verifyd_serve USING (true);";
    assert_eq!(statement(remedy), create);
    bench.execute(create).await;
    assert_eq!(examined(&bench), (0, vec![]));

    bench
        .execute(
            "CREATE POLICY of_setting ON operation_runs AS RESTRICTIVE FOR UPDATE
             USING (workspace_id = current_setting('app.workspace')::bigint)",
        )
        .await;
    let (code, bad) = examined(&bench);
    let writing = bad.iter().find(|(part, ..)| part == "writing");
    let (_, found, remedy) = writing.unwrap_or_else(|| panic!("{bad:?}"));
    assert_eq!(code, 1, "{bad:?}");
    let unknown = "unrecognized configuration parameter \"app.workspace\"";
    assert!(found.contains(unknown), "{found}");
    assert!(remedy.contains("ALTER POLICY"), "{remedy}");
    assert!(!remedy.contains("options"), "{remedy}");
    bench
        .execute("ALTER POLICY of_setting ON operation_runs USING (true)")
        .await;
    assert_eq!(examined(&bench), (0, vec![]));
}
