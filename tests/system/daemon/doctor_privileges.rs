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
    let hidden = "row-level security hides every row of verifyd.schema_migrations";
    assert!(found.contains(hidden), "{found}");
    let serve = bench.run(&["serve"]);
    let said = String::from_utf8_lossy(&serve.stderr);
    assert_eq!(serve.status.code(), Some(1), "{said}");
    assert!(said.contains(hidden), "{said}");
    assert!(!said.contains("verifyd migrate"), "{said}");

    // A policy that admits all is told, as of every table.
    bench
        .execute("CREATE POLICY reads ON verifyd.schema_migrations FOR SELECT USING (true)")
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, as_policed)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "schema"));
    let applies = "verifyd.schema_migrations: row-level security applies to the role verifyd_serve";
    assert!(found.starts_with(applies), "{found}");
    assert_eq!(statement(as_policed), statement(remedy));
    bench.execute(statement(remedy)).await;
    assert_eq!(examined(&bench), (0, vec![]));
}
