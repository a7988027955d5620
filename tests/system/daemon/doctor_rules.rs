//! `verifyd doctor` tries which runs the application's own rules refuse.

use super::application_trigger::before_update;
use super::doctor::{answer, examined, statement};
use test_support::bench::Bench;

/// What the application's own rules refuse of `serve`, they refuse of `doctor`, which says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_the_application_that_refuses_runs_is_found() {
    let mut bench = Bench::new().await;
    let connection = bench.healthy(1);
    bench
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN RAISE EXCEPTION ''not today''; END'",
        )
        .await;
    let trigger = "CREATE TRIGGER refused BEFORE UPDATE ON operation_runs FOR EACH ROW \
                   EXECUTE FUNCTION refuse()";
    let drop_trigger = "DROP TRIGGER refused ON operation_runs";
    for (rule, dropped, said) in [
        (
            trigger,
            drop_trigger,
            "claiming a run: not today (SQLSTATE P0001)",
        ),
        (
            "ALTER TABLE operation_runs ADD CONSTRAINT refused CHECK (status <> 'running')",
            "ALTER TABLE operation_runs DROP CONSTRAINT refused",
            "claiming a run: new row for relation \"operation_runs\" violates check constraint \
             \"refused\"",
        ),
        (
            "CREATE CONSTRAINT TRIGGER refused AFTER UPDATE ON operation_runs \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.status = 'completed') \
             EXECUTE FUNCTION refuse()",
            drop_trigger,
            "completing a run: not today",
        ),
        (
            "CREATE TABLE audit (actor text NOT NULL); \
             CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN INSERT INTO audit VALUES (NULL); RETURN new; END'; \
             CREATE TRIGGER refused BEFORE UPDATE ON operation_runs FOR EACH ROW \
             EXECUTE FUNCTION audited()",
            drop_trigger,
            "claiming a run: null value in column \"actor\"",
        ),
    ] {
        bench.execute(rule).await;
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{said}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (1, "writing"), "{bad:?}");
        assert!(found.contains(said), "{said}: {found}");
        assert!(remedy.contains("trigger or constraint"), "{remedy}");
        bench.execute(dropped).await;
    }
    assert_eq!(examined(&bench), (0, vec![]));

    // Without a queued run nobody knows whether it refuses all, as this one does.
    let refuses_all = "CREATE TRIGGER refused BEFORE INSERT OR UPDATE ON operation_runs FOR EACH ROW \
                       EXECUTE FUNCTION refuse()";
    bench.execute(refuses_all).await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "writing"), "{bad:?}");
    assert!(found.contains("recording a check: not today"), "{found}");
    let not_tried = "claiming could not be tried, since no run is queued";
    assert!(found.ends_with(not_tried), "{found}");
    assert!(
        remedy.ends_with("try again while a run is queued"),
        "{remedy}"
    );
    bench.execute(drop_trigger).await;

    // Runs of others are worked on while the INSERT of verifyd is refused: a queued one shows that.
    bench
        .execute(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
             VALUES (1, 1, 'provider.connection.check', 'queued', '{\"provider\": \"microsoft\",
                 \"module\": \"health_check\", \"provider_connection_id\": 999, \"ticket\": 1}', now())",
        )
        .await;
    for (when, said) in [
        ("", "claiming a run: not today"),
        (
            "WHEN (new.status <> 'running')",
            "releasing a run: not today",
        ),
        (
            "WHEN (new.status = 'completed' OR NOT new.context ? 'ticket')",
            "completing a run: not today",
        ),
    ] {
        bench
            .execute(&format!(
                "CREATE TRIGGER refused BEFORE INSERT OR UPDATE ON operation_runs FOR EACH ROW {when} \
                 EXECUTE FUNCTION refuse()"
            ))
            .await;
        let (code, bad) = examined(&bench);
        let (part, found, _) = &bad[0];
        assert_eq!((code, part.as_str()), (1, "writing"), "{bad:?}");
        assert!(found.contains(said), "{said}: {found}");
        bench.execute(drop_trigger).await;
    }
    for (rule, dropped, said) in [
        (
            "CREATE FUNCTION dropped() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER refused BEFORE INSERT ON operation_runs FOR EACH ROW \
             EXECUTE FUNCTION dropped()",
            drop_trigger,
            "recording a check: a trigger keeps the row out of operation_runs (triggers: refused)",
        ),
        (
            "ALTER TABLE operation_runs ADD CONSTRAINT refused \
             CHECK (context ? 'ticket' OR status <> 'queued')",
            "ALTER TABLE operation_runs DROP CONSTRAINT refused",
            "recording a check: new row for relation \"operation_runs\" violates check constraint \
             \"refused\"",
        ),
        (
            "CREATE TABLE spaces (id bigint PRIMARY KEY); \
             ALTER TABLE operation_runs ADD CONSTRAINT refused \
             FOREIGN KEY (workspace_id) REFERENCES spaces (id) NOT VALID",
            "ALTER TABLE operation_runs DROP CONSTRAINT refused",
            "recording a check: insert or update on table \"operation_runs\" violates foreign key \
             constraint \"refused\"",
        ),
    ] {
        bench.execute(rule).await;
        let (code, bad) = examined(&bench);
        // The other one is that no worker runs.
        let [(part, found, remedy), (runs, ..)] = &bad[..] else {
            panic!("{said}: {bad:?}")
        };
        let parts = [part.as_str(), runs.as_str()];
        assert_eq!((code, parts), (0, ["writing", "runs"]), "{bad:?}");
        assert!(found.contains(said), "{said}: {found}");
        assert!(
            remedy.contains("trigger or constraint") && remedy.contains("created_at; until then"),
            "{remedy}"
        );
        bench.execute(dropped).await;
    }
    bench.execute("DELETE FROM operation_runs").await;
    assert_eq!(examined(&bench), (0, vec![]));

    // Where it may record no check, it claims one that is queued.
    bench.record(&[connection], 1).await;
    bench.grant().await;
    bench
        .execute(&format!(
            "REVOKE INSERT ON operation_runs FROM verifyd_serve; {trigger}"
        ))
        .await;
    bench.become_role("verifyd_serve");
    let (code, bad) = examined(&bench);
    let writing = bad.iter().find(|(part, ..)| part == "writing");
    let (_, found, _) = writing.unwrap_or_else(|| panic!("{bad:?}"));
    assert_eq!(code, 1);
    assert!(found.contains("claiming a run: not today"), "{found}");
}

/// Tables of other applications have columns and constraints of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_the_application_that_refuses_permissions_is_found() {
    let bench = Bench::new().await;
    bench.healthy(1);
    for (rule, dropped, said) in [
        (
            "ALTER TABLE tenant_permissions ADD COLUMN team bigint NOT NULL",
            "ALTER TABLE tenant_permissions DROP COLUMN team",
            "null value in column \"team\" of relation \"tenant_permissions\"",
        ),
        (
            "ALTER TABLE tenant_permissions ADD CONSTRAINT refused CHECK (status <> 'missing')",
            "ALTER TABLE tenant_permissions DROP CONSTRAINT refused",
            "new row for relation \"tenant_permissions\" violates check constraint \"refused\"",
        ),
        (
            "CREATE TABLE customers (id bigint PRIMARY KEY); \
             ALTER TABLE tenant_permissions ADD CONSTRAINT refused \
             FOREIGN KEY (tenant_id) REFERENCES customers (id)",
            "ALTER TABLE tenant_permissions DROP CONSTRAINT refused",
            "insert or update on table \"tenant_permissions\" violates foreign key constraint \"refused\"",
        ),
    ] {
        bench.execute(rule).await;
        let (code, bad) = examined(&bench);
        let writing = bad.iter().find(|(part, ..)| part == "writing");
        let (_, found, remedy) = writing.unwrap_or_else(|| panic!("{said}: {bad:?}"));
        assert_eq!(code, 1, "{bad:?}");
        let step = "writing the inventory of a tenant (tenant_permissions): ";
        assert!(found.contains(&format!("{step}{said}")), "{said}: {found}");
        let columns =
            "tenant_id, permission_key, status (granted, missing), details and last_checked_at";
        assert!(remedy.contains(columns), "{remedy}");
        bench.execute(dropped).await;
    }
    assert_eq!(examined(&bench), (0, vec![]));
}

/// Without a run there is nothing to try, which is not to be read as accepted.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_tried_is_said() {
    let bench = Bench::new().await;
    let found = || {
        let (code, parts) = answer(&bench);
        let mut parts = parts.as_array().unwrap().iter();
        let writing = parts.find(|part| part["part"] == "writing").unwrap();
        assert_eq!((code, writing["state"].as_str()), (0, Some("ok")));
        writing["found"].as_str().unwrap().to_owned()
    };
    let said = found();
    assert!(said.ends_with("nothing could be tried"), "{said}");
    bench
        .execute(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
             VALUES (1, 1, 'provider.connection.check', 'queued', '{\"provider\": \"microsoft\",
                 \"module\": \"health_check\", \"provider_connection_id\": 999}', now())",
        )
        .await;
    let said = found();
    assert!(said.contains("completing one was not tried"), "{said}");
}

/// `serve` waits longer for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_takes_long_is_no_failure() {
    let bench = Bench::new().await;
    bench.healthy(1);
    before_update(&bench, "true", "PERFORM pg_sleep(2); RETURN new").await;
    let (code, bad) = examined(&bench);
    let [(part, ..)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "writing"), "{bad:?}");
}

/// Compiling them takes longer than executing them, where a setting has the server compile them all.
#[tokio::test(flavor = "multi_thread")]
async fn statements_are_not_compiled() {
    let bench = Bench::new().await;
    bench.healthy(1);
    let url = bench.database.url();
    let name = url.rsplit('/').next().unwrap();
    bench
        .execute(&format!(
            "ALTER DATABASE {name} SET jit = on;
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''compiled''; END';
             CREATE TRIGGER compiled BEFORE INSERT OR UPDATE ON operation_runs FOR EACH ROW
                 WHEN (current_setting('jit') = 'on') EXECUTE FUNCTION refuse()"
        ))
        .await;
    assert_eq!(examined(&bench), (0, vec![]));
}

/// Triggers guard what the audit trail says; the owner of its table can disable them.
#[tokio::test(flavor = "multi_thread")]
async fn a_guard_of_the_audit_trail_that_is_gone_is_named_with_what_restores_it() {
    let bench = Bench::new().await;
    for take in [
        "ALTER TABLE verifyd.audit_entries DISABLE TRIGGER verifyd_guard_audit_entries",
        "DROP TRIGGER verifyd_guard_audit_entries ON verifyd.audit_entries",
    ] {
        bench.execute(take).await;
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{bad:?}")
        };
        assert_eq!((code, part.as_str()), (0, "guards"), "{bad:?}");
        let named = "the trigger verifyd_guard_audit_entries on verifyd.audit_entries is missing";
        assert!(found.contains(named), "{found}");
        bench.execute(statement(remedy)).await;
        assert_eq!(examined(&bench), (0, vec![]));
    }
}

/// Producers give their runs ids. What is printed lets them leave the id out, also where a sequence is left of a default.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_without_a_default_is_found() {
    for left_over in ["", "CREATE SEQUENCE left_over OWNED BY operation_runs.id;"] {
        let bench = Bench::new().await;
        let connection = bench.healthy(1);
        bench
            .execute(&format!(
                "ALTER TABLE operation_runs ALTER COLUMN id DROP IDENTITY IF EXISTS, ALTER COLUMN id DROP DEFAULT;
                 {left_over}
                 INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context, created_at)
                 VALUES (7, 1, 1, 'another', 'queued', '{{}}', now())"
            ))
            .await;
        let (code, bad) = examined(&bench);
        assert_eq!(code, 0, "{bad:?}");
        let schema = bad.iter().find(|(part, ..)| part == "schema");
        let (_, found, remedy) = schema.unwrap_or_else(|| panic!("{bad:?}"));
        let without = "operation_runs.id: NOT NULL and without a default";
        assert!(found.starts_with(without), "{found}");
        assert!(!remedy.contains("DROP NOT NULL"), "{remedy}");
        bench.execute(statement(remedy)).await;
        assert_eq!(examined(&bench), (0, vec![]));
        // That of `doctor` was rolled back, and has taken an id.
        assert!(bench.enqueue(connection) > 7);
    }
}

/// Also of tables that are verifyd's own, and of those that only operators insert into.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_without_a_default_is_found_in_every_table() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    bench
        .execute("ALTER TABLE tenant_permissions ADD COLUMN id bigserial")
        .await;
    assert_eq!(examined(&bench), (0, vec![]));
    for (table, said) in [
        ("provider_connections", "no connection can be added"),
        ("provider_credentials", "no credential can be added"),
        (
            "tenant_permissions",
            "no check that reads permissions can be completed",
        ),
        (
            "verification_check_acknowledgements",
            "nothing can be acknowledged",
        ),
        ("verifyd.api_tokens", "no token can be created"),
        ("verifyd.webhook_endpoints", "no endpoint can be added"),
        ("verifyd.webhook_deliveries", "no run can be completed"),
        ("verifyd.audit_entries", "nothing can be done"),
    ] {
        bench
            .execute(&format!(
                "ALTER TABLE {table} ALTER COLUMN id DROP IDENTITY IF EXISTS, ALTER COLUMN id DROP DEFAULT"
            ))
            .await;
        let (_, bad) = examined(&bench);
        let schema = bad.iter().find(|(part, ..)| part == "schema");
        let (_, found, remedy) = schema.unwrap_or_else(|| panic!("{table}: {bad:?}"));
        let without = format!("{table}.id: NOT NULL and without a default");
        assert!(found.starts_with(&without), "{found}");
        assert!(found.contains(said), "{found}");
        bench.execute(statement(remedy)).await;
        assert_eq!(examined(&bench), (0, vec![]), "{table}");
    }
    let of_audit = "SELECT count(*) FROM pg_attribute WHERE attname = 'id' AND attidentity = 'a'
        AND attrelid = 'verifyd.audit_entries'::regclass";
    assert_eq!(bench.numbers(of_audit).await, [1]);
    bench.healthy(2);
    bench.token(&["run"]);
    bench.enqueue(connection);
}

/// A sequence that a default has left behind gives no ids.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_id_is_that_of_the_identity_column() {
    let bench = Bench::new().await;
    bench.healthy(1);
    bench
        .execute(
            "ALTER TABLE operation_runs ALTER COLUMN id DROP IDENTITY IF EXISTS, ALTER COLUMN id DROP DEFAULT;
             CREATE SEQUENCE left_over START WITH 100 OWNED BY operation_runs.id;
             ALTER TABLE operation_runs ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY;
             INSERT INTO operation_runs (id, workspace_id, tenant_id, type, status, context, created_at)
             VALUES (7, 1, 1, 'another', 'queued', '{}', now())",
        )
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "writing"));
    assert!(found.contains("is 1, and 7 is there already"), "{found}");
    bench.execute(statement(remedy)).await;
    assert_eq!(examined(&bench), (0, vec![]));
}

/// The sequence refuses the check that is tried, and no rule of the application does: there is one remedy.
#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_at_its_end_is_found() {
    let bench = Bench::new().await;
    bench.healthy(1);
    bench
        .execute(
            "SELECT setval(pg_get_serial_sequence('operation_runs', 'id'), 9223372036854775807)",
        )
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "writing"));
    assert!(found.contains("operation_runs is at its end"), "{found}");
    bench.execute(statement(remedy)).await;
    assert_eq!(examined(&bench), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn guards_that_are_missing_are_named_with_the_command_that_adds_them() {
    let bench = Bench::new().await;
    bench
        .execute("DROP TRIGGER verifyd_guard_completed_run ON operation_runs")
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "guards"), "{bad:?}");
    assert!(found.contains("verifyd_guard_completed_run"), "{found}");
    assert!(remedy.contains("`verifyd migrate --enforce`"), "{remedy}");
    bench.success(&["migrate", "--enforce"]);
    assert_eq!(examined(&bench), (0, vec![]));
}

/// No worker claims a run whose id is not positive.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_not_positive_are_found() {
    let bench = Bench::new().await;
    let connection = bench.healthy(1);
    for (changed, exit, said) in [
        (
            "MINVALUE -10 START WITH -10 RESTART WITH -10",
            1,
            "the next id of operation_runs is -10, and its sequence counts by 1",
        ),
        (
            "INCREMENT BY -1 MINVALUE -1000 MAXVALUE -1 START WITH -1 RESTART WITH -1",
            1,
            "the next id of operation_runs is -1, and its sequence counts by -1",
        ),
        (
            "INCREMENT BY -1 MAXVALUE 1000 START WITH 1000 RESTART WITH 1000",
            0,
            "the next id of operation_runs is 1000, and its sequence counts by -1",
        ),
    ] {
        let mut sql = bench.sql().await;
        let sequence: String =
            sqlx::query_scalar("SELECT pg_get_serial_sequence('operation_runs', 'id')")
                .fetch_one(&mut sql)
                .await
                .unwrap();
        bench
            .execute(&format!("ALTER SEQUENCE {sequence} {changed}"))
            .await;
        let (code, bad) = examined(&bench);
        let [(part, found, remedy)] = &bad[..] else {
            panic!("{changed}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (exit, "writing"), "{found}");
        assert!(found.starts_with(said), "{found}");
        bench.execute(statement(remedy)).await;
        assert_eq!(examined(&bench), (0, vec![]));
    }
    assert!(bench.enqueue(connection) > 0);
}

/// It skips the ids between them.
#[tokio::test(flavor = "multi_thread")]
async fn the_taken_id_that_is_named_is_one_that_the_sequence_gives() {
    let bench = Bench::new().await;
    bench.healthy(1);
    bench
        .execute(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
                 SELECT 1, 1, 'another', 'queued', '{}', now() FROM generate_series(1, 5);
             DELETE FROM operation_runs WHERE id = 2;
             DO $$ BEGIN
                 EXECUTE format('ALTER SEQUENCE %s INCREMENT BY 2 RESTART WITH 2',
                     pg_get_serial_sequence('operation_runs', 'id'));
             END $$",
        )
        .await;
    let (code, bad) = examined(&bench);
    let [(part, found, remedy)] = &bad[..] else {
        panic!("{bad:?}")
    };
    assert_eq!((code, part.as_str()), (0, "writing"));
    let taken = "the next id of operation_runs is 2, 4 is there already, and others up to 5: ";
    assert!(found.starts_with(taken), "{found}");
    bench.execute(statement(remedy)).await;
    assert_eq!(examined(&bench), (0, vec![]));
}
