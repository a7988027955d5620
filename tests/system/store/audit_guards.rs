//! What keeps the entries of the audit trail as they are.

use crate::store::audit::{ids, token};
use crate::store::bed::Bed;
use crate::store::fixtures::new_connection;
use std::time::Duration;
use test_support::world::operator;
use verifyd::domain::access::Binding;
use verifyd::ports::audit::KEPT_AT_LEAST;
use verifyd::ports::clock::{Clock as _, SystemClock};

pub async fn entries_never_change_and_only_old_ones_are_deleted(bed: &Bed) {
    token(bed, "one", Binding::EVERYTHING).await;
    let table = bed.own("audit_entries");
    let mut changes = vec![
        format!("UPDATE {table} SET actor = 'somebody else'"),
        format!("UPDATE {table} SET at = '2020-01-01T00:00:00.000Z'"),
        format!("DELETE FROM {table}"),
    ];
    match bed.is_postgres() {
        true => changes.extend([
            format!("TRUNCATE {table}"),
            // A function of another schema, in place of the server's.
            format!(
                "CREATE SCHEMA mine; CREATE FUNCTION mine.now() RETURNS timestamptz LANGUAGE sql \
                 AS $$ SELECT timestamptz '2999-01-01' $$; SET LOCAL search_path = mine, pg_catalog; \
                 DELETE FROM {table}"
            ),
        ]),
        false => changes.push(format!(
            "INSERT OR REPLACE INTO {table} (id, action, object, surface, actor) \
             VALUES (1, 'token.created', 'token', 'cli', 'somebody else')"
        )),
    }
    for change in changes {
        let refused = bed.try_exec(&change).await.unwrap_err().to_string();
        assert!(refused.contains("entries of the audit trail"), "{refused}");
    }
    // PostgreSQL chooses every id; SQLite replaces none that is not above zero.
    let chosen = format!(
        "INSERT INTO {table} (id, action, object, surface, actor) \
         VALUES (-1, 'token.created', 'token', 'cli', 'somebody')"
    );
    assert!(bed.try_exec(&chosen).await.is_err());
    // No list could read it, and nobody delete it.
    let (actor, after) = ("x".repeat(1001), format!("\"{}\"", "x".repeat(65_537)));
    for (actor, after) in [(actor.as_str(), "null"), ("somebody", &after)] {
        let large = format!(
            "INSERT INTO {table} (action, object, surface, actor, after) \
             VALUES ('token.created', 'token', 'cli', '{actor}', '{after}')"
        );
        let refused = bed.try_exec(&large).await.unwrap_err().to_string();
        assert!(
            refused.to_lowercase().contains("check constraint"),
            "{refused}"
        );
    }
    for day in 1..=5 {
        bed.exec(&format!(
            "INSERT INTO {table} (at, action, object, surface, actor) \
             VALUES ('2020-01-0{day}T00:00:00.000Z', 'token.created', 'token', 'cli', 'somebody')"
        ))
        .await;
    }
    let yesterday = SystemClock.now() - chrono::Duration::days(1);
    let yesterday = yesterday.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    bed.exec(&format!(
        "INSERT INTO {table} (at, action, object, surface, actor) \
         VALUES ('{yesterday}', 'token.created', 'token', 'cli', 'somebody')"
    ))
    .await;
    let store = &bed.store;
    // Whoever asks for less than the database keeps is refused and deletes nothing.
    assert!(
        store
            .prune_audit_entries(Duration::ZERO, 100)
            .await
            .is_err()
    );
    assert_eq!(bed.count(&table).await, 7);
    assert_eq!(
        store.prunable_audit_entries(KEPT_AT_LEAST).await.unwrap(),
        5
    );
    for (deleted, left) in [(3, 4), (2, 2), (0, 2)] {
        let pruned = store.prune_audit_entries(KEPT_AT_LEAST, 3).await;
        assert_eq!(pruned.unwrap(), deleted);
        assert_eq!(bed.count(&table).await, left);
    }
}

/// Behind the largest id there is none.
pub async fn no_id_ends_the_trail(bed: &Bed) {
    let table = bed.own("audit_entries");
    let insert = |id: &str| {
        format!(
            "INSERT INTO {table} (id, action, object, surface, actor) \
             VALUES ({id}, 'token.created', 'token', 'cli', 'somebody')"
        )
    };
    token(bed, "one", Binding::EVERYTHING).await;
    for id in ["9223372036854775807", "4611686018427387903"] {
        assert!(bed.try_exec(&insert(id)).await.is_err(), "{id}");
    }
    if bed.is_postgres() {
        // Only the owner can move the sequence to its end. Then no change is made, and `doctor` names it.
        let move_to = |id: &str| {
            format!("SELECT setval(pg_get_serial_sequence('{table}', 'id'), {id}) FROM {table}")
        };
        bed.exec(&move_to("9223372036854775807")).await;
        let failed = bed
            .store
            .add_connection(&new_connection(7), None, operator())
            .await;
        assert!(failed.is_err());
        assert_eq!(bed.count("provider_connections").await, 0);
        let unusable = bed.store.unusable_ids().await.unwrap();
        let [ids] = &unusable[..] else {
            panic!("{unusable:?}")
        };
        assert_eq!((ids.table, ids.next), ("verifyd.audit_entries", None));
        bed.exec(&move_to("1")).await;
        assert_eq!(bed.store.unusable_ids().await.unwrap(), []);
    } else {
        // Everybody can change the sequence: SQLite has no trigger on it.
        for seq in [
            "9223372036854775807",
            "4611686018427387902",
            "-5",
            "1.5",
            "'x'",
        ] {
            let set = format!("UPDATE sqlite_sequence SET seq = {seq} WHERE name = '{table}'");
            bed.exec(&set).await;
            token(bed, seq, Binding::EVERYTHING).await;
        }
        bed.exec("DELETE FROM sqlite_sequence").await;
        token(bed, "none", Binding::EVERYTHING).await;
        assert_eq!(ids(bed, |_| {}).await, [7, 6, 5, 4, 3, 2, 1]);
        // Ids of deleted entries are not used again.
        bed.exec("DROP TRIGGER verifyd_guard_audit_entries_delete")
            .await;
        bed.exec(&format!("DELETE FROM {table}")).await;
        token(bed, "next", Binding::EVERYTHING).await;
        assert_eq!(ids(bed, |_| {}).await, [8]);
        // A row from before there was a guard.
        bed.exec("DROP TRIGGER verifyd_guard_audit_entries_id")
            .await;
        bed.exec(&insert("9223372036854775807")).await;
        token(bed, "beside it", Binding::EVERYTHING).await;
        assert_eq!(ids(bed, |_| {}).await, [i64::MAX, 9, 8]);
    }
}

/// The owner of the table can take the guards away.
pub async fn a_lost_guard_of_the_trail_is_named_and_restored(bed: &Bed) {
    token(bed, "one", Binding::EVERYTHING).await;
    let table = bed.own("audit_entries");
    let lost = async || bed.store.guards().await.unwrap().lost;
    assert_eq!(lost().await, []);
    let (triggers, takes): (&[&str], &[&str]) = match bed.is_postgres() {
        true => (
            &["verifyd_guard_audit_entries", "verifyd_guard_audit_trail"],
            &[
                "ALTER TABLE verifyd.audit_entries DISABLE TRIGGER NAME",
                "ALTER TABLE verifyd.audit_entries ENABLE REPLICA TRIGGER NAME",
                "DROP TRIGGER NAME ON verifyd.audit_entries",
                "CREATE FUNCTION verifyd.nothing() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN RETURN old; END'; \
                 CREATE OR REPLACE TRIGGER NAME BEFORE TRUNCATE ON verifyd.audit_entries \
                 FOR EACH STATEMENT EXECUTE FUNCTION verifyd.nothing()",
            ],
        ),
        false => (
            &[
                "verifyd_guard_audit_entries_insert",
                "verifyd_guard_audit_entries_id",
                "verifyd_guard_audit_entries_update",
                "verifyd_guard_audit_entries_delete",
            ],
            &["DROP TRIGGER NAME"],
        ),
    };
    for trigger in triggers {
        for take in takes {
            bed.exec(&take.replace("NAME", trigger)).await;
            let named = lost().await;
            let [guard] = &named[..] else {
                panic!("{take}: {named:?}")
            };
            assert_eq!((guard.name.as_str(), &guard.table), (*trigger, &table));
            match guard.remedy.strip_prefix("as the table's owner: ") {
                Some(statement) => bed.exec(statement).await,
                None => {
                    let added = bed.store.enforce().await.unwrap().added;
                    assert_eq!(added, [*trigger]);
                }
            }
            assert_eq!(lost().await, [], "{take}");
        }
        if bed.is_postgres() {
            bed.exec("DROP FUNCTION verifyd.nothing()").await;
        }
    }
    let change = format!("UPDATE {table} SET actor = 'somebody else'");
    assert!(bed.try_exec(&change).await.is_err());
}
