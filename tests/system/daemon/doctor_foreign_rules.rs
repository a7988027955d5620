//! `verifyd doctor` names what of the application refuses `serve`, where the error alone leads elsewhere.

use super::application_trigger::before_update;
use super::doctor::examined;
use test_support::bench::Bench;

/// With a grant, verifyd's role could do what only the trigger has to.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_a_trigger_lacks_is_not_asked_for_verifyd() {
    let mut bench = Bench::new().await;
    bench.healthy(1);
    bench.grant().await;
    bench.execute("CREATE TABLE log_of_runs (run bigint)").await;
    let logs = "INSERT INTO log_of_runs VALUES (new.id); RETURN new";
    before_update(&bench, "true", logs).await;
    bench.become_role("verifyd_serve");
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (1, "writing"), "{bad:?}");
    let said =
        "permission denied for table log_of_runs (SQLSTATE 42501) (triggers: of_application)";
    assert!(found.ends_with(said), "{found}");
    assert!(
        remedy.contains("SECURITY DEFINER SET search_path"),
        "{remedy}"
    );
    assert!(!remedy.contains("grant"), "{remedy}");
    bench
        .execute("ALTER FUNCTION of_application SECURITY DEFINER")
        .await;
    assert_eq!(examined(&bench), (0, vec![]));
    bench.execute("DROP FUNCTION of_application CASCADE").await;
    // No right is missing.
    before_update(&bench, "true", "RAISE 'not today' USING errcode = '42501'").await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (1, "writing"), "{bad:?}");
    let said = "not today (SQLSTATE 42501) (triggers: of_application)";
    assert!(found.ends_with(said), "{found}");
    assert!(
        remedy.contains("constraint that refuses it accept"),
        "{remedy}"
    );
}

/// PostgreSQL refuses a rule where the statement writes within WITH or has ON CONFLICT, or RETURNING where the rule
/// replaces it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_rewrites_what_is_written_is_named() {
    let bench = Bench::new().await;
    bench.healthy(1);
    bench.execute("CREATE TABLE log_of_runs (run bigint)").await;
    // Of what verifyd does not do.
    for table in ["operation_runs", "tenant_permissions"] {
        let keep = format!("CREATE RULE is_kept AS ON DELETE TO {table} DO INSTEAD NOTHING");
        bench.execute(&keep).await;
    }
    for (table, rule, code, step) in [
        (
            "operation_runs",
            "UPDATE TO operation_runs DO INSTEAD NOTHING",
            1,
            "claiming a run: ",
        ),
        (
            "operation_runs",
            "UPDATE TO operation_runs DO ALSO INSERT INTO log_of_runs VALUES (old.id)",
            1,
            "claiming a run: ",
        ),
        // Runs of others may be worked on.
        (
            "operation_runs",
            "INSERT TO operation_runs DO INSTEAD NOTHING",
            0,
            "recording a check: ",
        ),
        (
            "tenant_permissions",
            "INSERT TO tenant_permissions DO ALSO INSERT INTO log_of_runs VALUES (1)",
            1,
            "writing the inventory of a tenant (tenant_permissions): ",
        ),
    ] {
        let create = format!("CREATE RULE of_application AS ON {rule}");
        bench.execute(&create).await;
        let (exit, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{rule}: {bad:?}")
        };
        assert_eq!((exit, part.as_str()), (code, "writing"), "{rule}: {bad:?}");
        let named = "(SQLSTATE 0A000) (rules: of_application)";
        assert!(found.contains(step) && found.contains(named), "{found}");
        assert!(remedy.contains("DROP RULE"), "{remedy}");
        let drop = format!("DROP RULE of_application ON {table}");
        bench.execute(&drop).await;
    }
    assert_eq!(examined(&bench), (0, vec![]));
}

/// It fires before any run is tried, also for statements that change none.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_of_statements_that_raises_a_code_of_the_server_is_named() {
    let bench = Bench::new().await;
    bench.healthy(1);
    bench
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE 'maintenance' USING errcode = '57P03'; END $$",
        )
        .await;
    for (table, event, named, advice) in [
        (
            "operation_runs",
            "UPDATE",
            "claiming a run: maintenance (SQLSTATE 57P03) (triggers: of_application)",
            "trigger or constraint that refuses it accept",
        ),
        (
            "tenant_permissions",
            "INSERT",
            "(tenant_permissions): maintenance (SQLSTATE 57P03) (function refuse)",
            "trigger or constraint of tenant_permissions",
        ),
    ] {
        let create = format!(
            "CREATE TRIGGER of_application BEFORE {event} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        );
        bench.execute(&create).await;
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{table}: {bad:?}")
        };
        // As `serve`, which starts: what has such a code may pass.
        assert_eq!((code, part.as_str()), (0, "writing"), "{bad:?}");
        assert!(found.ends_with(named), "{named}: {found}");
        assert!(remedy.contains(advice), "{remedy}");
        let drop = format!("DROP TRIGGER of_application ON {table}");
        bench.execute(&drop).await;
    }
}
