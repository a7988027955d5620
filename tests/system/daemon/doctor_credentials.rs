//! `verifyd doctor` names stored credentials and connections that cannot be used.

use super::doctor::examined;
use test_support::bench::Bench;

/// Runs that need no key succeed without one.
#[tokio::test(flavor = "multi_thread")]
async fn that_there_is_no_key_is_a_warning() {
    let mut bench = Bench::new().await;
    bench.environment.remove("VERIFYD__CREDENTIALS__KEYS");
    let (code, bad) = examined(&bench);
    let [(part, found, _)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "keys"));
    assert!(found.starts_with("none: "), "{found}");
    bench.serve(&[]).wait_for("no credentials.keys");
}

/// What is wrong with rows is named once for each of the first ones, and how many more there are.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_cannot_be_used_are_named_once_and_counted() {
    let bench = Bench::new().await;
    bench
        .execute(
            "ALTER TABLE provider_connections ALTER workspace_id DROP NOT NULL;
             INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, status)
             SELECT n, NULL, 1, 'microsoft', 'enabled' FROM generate_series(1, 7) n;
             INSERT INTO provider_credentials (provider_connection_id, kind, payload)
             SELECT n, 'client_secret', 'x' FROM generate_series(1, 7) n;
             SELECT setval(pg_get_serial_sequence('provider_connections', 'id'), 7)",
        )
        .await;
    let (code, bad) = examined(&bench);
    assert_eq!(code, 0, "{bad:?}");
    let found = bad
        .iter()
        .map(|(part, found, _)| format!("{part}: {found}"));
    let mut expected: Vec<String> = (1..=5)
        .map(|id| {
            format!("connections: connection {id}: provider_connections.workspace_id: it is NULL")
        })
        .collect();
    expected.push("connections: and 2 more".to_owned());
    assert_eq!(found.collect::<Vec<_>>(), expected);
    let shown = bench.run(&["connections", "show", "1"]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("workspace –, tenant 1"), "{shown}");
}

/// Nothing tells which directory to check, so that a check is refused. A disabled one may be complete later.
#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_directory_are_named_and_counted() {
    let bench = Bench::new().await;
    let healthy = bench.healthy(1);
    bench
        .execute(&format!(
            "INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, status)
             SELECT n, c.workspace_id, c.tenant_id, c.provider,
                 CASE WHEN n < 108 THEN 'enabled' ELSE 'disabled' END
             FROM provider_connections c, generate_series(101, 109) n WHERE c.id = {healthy};
             SELECT setval(pg_get_serial_sequence('provider_connections', 'id'), 109)"
        ))
        .await;
    let (code, bad) = examined(&bench);
    assert_eq!(code, 0, "{bad:?}");
    let found = bad
        .iter()
        .map(|(part, found, _)| format!("{part}: {found}"));
    let mut expected: Vec<String> = (101..=105)
        .map(|id| {
            format!(
                "connections: connection {id}: provider_connections.entra_tenant_id: it is NULL, allowed: a GUID, \
                 the directory to check"
            )
        })
        .collect();
    expected.push("connections: and 2 more".to_owned());
    assert_eq!(found.collect::<Vec<_>>(), expected);
    let (_, _, remedy) = &bad[0];
    assert!(remedy.contains("correct the row"), "{remedy}");

    let enqueued = bench.run(&["enqueue", "--connection", "101"]);
    let said = String::from_utf8_lossy(&enqueued.stderr);
    assert_eq!(enqueued.status.code(), Some(1), "{said}");
    assert!(said.contains("entra_tenant_id: it is NULL"), "{said}");
    let recorded = bench.numbers("SELECT count(*) FROM operation_runs").await;
    assert_eq!(recorded, [0]);
    let listed = bench.run(&["connections", "list"]);
    let listed = String::from_utf8_lossy(&listed.stdout);
    assert_eq!(listed.matches("unusable").count(), 7, "{listed}");
}

/// Credentials that do not open, and those that cannot be read, are named up to a limit, and counted.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_not_named_or_not_tested_are_told() {
    let bench = Bench::new().await;
    let healthy = bench.healthy(1);
    let add = |ids: &str, kind: &str, payload: &str| {
        format!(
            "INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, display_name,
                 status, entra_tenant_id, client_id, cloud, module)
             SELECT n, workspace_id, tenant_id, provider, display_name, status, entra_tenant_id,
                 client_id, cloud, module
             FROM provider_connections, generate_series({ids}) n WHERE id = {healthy};
             INSERT INTO provider_credentials (provider_connection_id, kind, payload)
             SELECT n, '{kind}', {payload} FROM generate_series({ids}) n;
             SELECT setval(pg_get_serial_sequence('provider_connections', 'id'), max(id))
             FROM provider_connections;"
        )
    };
    bench
        .execute("ALTER TABLE provider_credentials DROP CONSTRAINT provider_credentials_kind")
        .await;
    let of_other_keys = add("101, 107", "client_secret", "'vfd1.k' || n || '.x.x'");
    bench.execute(&of_other_keys).await;
    bench.execute(&add("201, 207", "odd", "'x'")).await;
    let (code, bad) = examined(&bench);
    assert_eq!(code, 0, "{bad:?}");
    let found: Vec<String> = bad
        .iter()
        .map(|(part, found, _)| {
            let at = found.split(": ").next().unwrap_or_default();
            format!("{part}: {at}")
        })
        .collect();
    let at = |part: &str, first: u32| {
        let named = (first..first + 5).map(|id| format!("{part}: connection {id}"));
        let more = format!("{part}: and 2 more");
        named.chain([more]).collect::<Vec<_>>()
    };
    assert_eq!(found, [at("keys", 101), at("connections", 201)].concat());

    let many = add("1001, 11000", "client_secret", "'x'");
    bench.execute(&many).await;
    let (code, bad) = examined(&bench);
    assert_eq!(code, 0, "{bad:?}");
    // Fewer than 10000 where the time was up before.
    let is_told = bad.iter().any(|(_, found, _)| {
        found.starts_with("only the first ") && found.ends_with(" credentials were tested")
    });
    assert!(is_told, "{bad:?}");
}

/// A connection may get its credential before its row is corrected. The workspace and the tenant are bound to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_stored_for_whatever_it_can_be_bound_to() {
    let bench = Bench::new().await;
    let id = bench.healthy(7).to_string();
    bench
        .execute(
            "ALTER TABLE provider_connections DROP CONSTRAINT provider_connections_status, \
                 ALTER provider DROP NOT NULL, ALTER workspace_id DROP NOT NULL, ALTER tenant_id DROP NOT NULL",
        )
        .await;
    let set = ["connections", "set-credential", &*id, "--secret-stdin"];
    for (column, value, before) in [
        (
            "entra_tenant_id",
            "NULL",
            "'5c000000-0000-4000-8000-000000000001'",
        ),
        ("provider", "NULL", "'microsoft'"),
        ("status", "'paused'", "'enabled'"),
        ("workspace_id", "NULL", "1"),
        ("tenant_id", "NULL", "7"),
    ] {
        let update = |value: &str| format!("UPDATE provider_connections SET {column} = {value}");
        bench.execute("DELETE FROM provider_credentials").await;
        bench.execute(&update(value)).await;
        let output = bench.run_with(&set, "a secret");
        let said = String::from_utf8_lossy(&output.stderr);
        let is_bound = matches!(column, "workspace_id" | "tenant_id");
        assert_eq!(output.status.success(), !is_bound, "{column}: {said}");
        let names = said.contains(&format!("provider_connections.{column}: it is NULL"));
        assert_eq!(names, is_bound, "{column}: {said}");
        let stored = bench.count("provider_credentials").await;
        assert_eq!(stored, i64::from(!is_bound), "{column}");
        bench.execute(&update(before)).await;
        let shown = bench.json(&["connections", "show", &id]);
        if is_bound {
            assert!(shown["credential"].is_null(), "{shown}");
        } else {
            assert_eq!(shown["credential"]["decryptable"], true, "{shown}");
        }
    }
}
