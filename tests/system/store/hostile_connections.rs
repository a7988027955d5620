//! Connections and what belongs to them, as another application may write them.

use crate::store::bed::Bed;
use crate::store::fixtures::succeeded;
use crate::store::hostile_rows::every_surface;
use verifyd::domain::access::Binding;
use verifyd::domain::connection::ConnectionStatus;
use verifyd::domain::{ConnectionId, TenantId};
use verifyd::ports::overview::ConnectionFilter;
use verifyd::ports::plan::PlanFilter;
use verifyd::ports::probe::Writing;

const DIRECTORY: &str = "5c000000-0000-4000-8000-00000000000A";

/// Every column of a connection and of its credential that another application may fill as it likes.
pub async fn a_connection_that_cannot_be_used_is_listed_with_its_reason(bed: &Bed) {
    let mut wrong = vec![(2, "status", "'paused'"), (0, "id", "0")];
    if bed.is_postgres() {
        bed.exec(
            "ALTER TABLE provider_connections DROP CONSTRAINT provider_connections_status, \
                 ALTER status DROP NOT NULL, ALTER workspace_id DROP NOT NULL, \
                 ALTER tenant_id DROP NOT NULL, ALTER provider DROP NOT NULL; \
             ALTER TABLE provider_credentials DROP CONSTRAINT provider_credentials_kind, \
                 ALTER kind DROP NOT NULL, ALTER payload DROP NOT NULL",
        )
        .await;
        wrong.extend([
            (3, "status", "NULL"),
            (4, "workspace_id", "NULL"),
            (5, "tenant_id", "NULL"),
            (6, "provider", "NULL"),
        ]);
    }
    for id in 0..=9 {
        bed.exec(&format!(
            "INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, display_name, status, \
                 entra_tenant_id) \
             VALUES ({id}, 1, 7, 'microsoft', 'named', 'enabled', '{DIRECTORY}'); \
             INSERT INTO provider_credentials (provider_connection_id, kind, payload) \
             VALUES ({id}, 'client_secret', 'x')"
        ))
        .await;
    }
    for (id, column, value) in &wrong {
        let set = format!("UPDATE provider_connections SET {column} = {value} WHERE id = {id}");
        bed.unchecked(&set).await;
    }
    let mut unreadable = vec![(7, "kind", "'password'")];
    if bed.is_postgres() {
        unreadable.extend([(8, "kind", "NULL"), (9, "payload", "NULL")]);
    }
    for (id, column, value) in &unreadable {
        let set = format!(
            "UPDATE provider_credentials SET {column} = {value} WHERE provider_connection_id = {id}"
        );
        bed.unchecked(&set).await;
    }

    let filter = |status| ConnectionFilter {
        status,
        limit: 200,
        ..ConnectionFilter::default()
    };
    let all = bed.store.connection_states(&filter(None)).await.unwrap();
    assert_eq!(all.len(), 10);
    for state in &all {
        let id = state.connection.id.0;
        assert_eq!(state.connection.display_name.as_deref(), Some("named"));
        let expected = wrong.iter().find(|(wrong, ..)| *wrong == id);
        let Some((_, column, _)) = expected else {
            assert_eq!(state.problem, None);
            assert_eq!(state.connection.status, ConnectionStatus::Enabled);
            continue;
        };
        let problem = state.problem.as_deref().unwrap();
        assert!(
            problem.starts_with(&format!("provider_connections.{column}: ")),
            "{problem}"
        );
        assert_eq!(state.connection.status, ConnectionStatus::Unusable);
        let one = bed
            .store
            .connection_state(ConnectionId(id), &Binding::EVERYTHING);
        assert_eq!(one.await.unwrap().as_ref(), Some(state));
        assert!(bed.store.starting_point(ConnectionId(id)).await.is_err());
    }
    let count = |status| async move {
        let found = bed.store.connection_states(&filter(Some(status))).await;
        found.unwrap().len()
    };
    assert_eq!(count(ConnectionStatus::Unusable).await, wrong.len());
    assert_eq!(count(ConnectionStatus::Enabled).await, 10 - wrong.len());
    assert_eq!(count(ConnectionStatus::Disabled).await, 0);
    let counts = bed.store.connection_counts(&Binding::EVERYTHING).await;
    let counts = counts.unwrap();
    assert_eq!(counts.unusable, wrong.len() as u64);
    assert_eq!(counts.never_checked, 10 - wrong.len() as u64);

    let mut named = Vec::new();
    for found in bed.store.credentials(None, 100).await.unwrap() {
        if let Err(error) = found.credential {
            named.push((found.connection.id.0, error.to_string()));
        }
    }
    // A credential is bound to its connection's workspace and tenant.
    let unbound = wrong
        .iter()
        .filter(|(_, column, _)| column.ends_with("_id"));
    let mut expected: Vec<i64> = unbound.map(|(id, ..)| *id).collect();
    expected.extend(unreadable.iter().map(|(id, ..)| *id));
    let ids: Vec<i64> = named.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, expected, "{named:?}");
    bed.exec("DELETE FROM provider_credentials").await;
    every_surface(bed, "connections that cannot be used").await;
}

/// An acknowledgement and a permission in tables of another application.
#[tokio::test]
async fn texts_that_are_not_there_hide_nothing_else() {
    let bed = Bed::postgres().await;
    let bed = &bed;
    bed.exec(
        "ALTER TABLE verification_check_acknowledgements ALTER check_key DROP NOT NULL, \
             ALTER reason DROP NOT NULL, ALTER acknowledged_by DROP NOT NULL; \
         ALTER TABLE tenant_permissions DROP CONSTRAINT tenant_permissions_pkey, \
             DROP CONSTRAINT tenant_permissions_status, ALTER permission_key DROP NOT NULL, \
             ALTER status DROP NOT NULL",
    )
    .await;
    let run = bed.completed(&succeeded()).await;
    bed.exec(&format!(
        "INSERT INTO verification_check_acknowledgements (operation_run_id, check_key, reason, \
             acknowledged_by, acknowledged_at) \
         VALUES ({run}, NULL, NULL, NULL, now()), ({run}, 'a.check', 'seen', 'somebody', now()); \
         INSERT INTO tenant_permissions (tenant_id, permission_key, status) \
         VALUES (7, NULL, 'granted'), (7, 'A.Read', NULL), (7, 'B.Read', 'odd'), \
                (7, 'C.Read', 'granted')"
    ))
    .await;
    let said = bed.store.acknowledgements_of(run).await.unwrap();
    assert_eq!(said.len(), 2);
    assert!(said.iter().any(|said| said.reason == "seen"));
    let permissions = bed.store.permissions(TenantId(7)).await.unwrap();
    let keys: Vec<_> = permissions
        .iter()
        .map(|p| p.permission_key.as_str())
        .collect();
    assert_eq!(keys, ["C.Read"]);
    every_surface(bed, "texts that are not there").await;
}

/// A check of it could not pass preflight. It can be read, so that its runs say why, and disabled, until it is complete.
pub async fn a_connection_without_a_directory_is_listed_with_its_reason(bed: &Bed) {
    let directories = [
        ("NULL".to_owned(), Some("it is NULL")),
        ("''".to_owned(), Some("it is \"\"")),
        (
            "'contoso.example'".to_owned(),
            Some("it is \"contoso.example\""),
        ),
        (
            "'{5c000000-0000-4000-8000-0000000000}'".to_owned(),
            Some("it is \"{5c"),
        ),
        (
            "'5c000000-0000-4000-8000-00000000000g'".to_owned(),
            Some("it is \"5c"),
        ),
        (
            "'5c00000-00000-4000-8000-00000000000-'".to_owned(),
            Some("it is \"5c"),
        ),
        (format!("'{DIRECTORY}'"), None),
        (format!("'{}'", DIRECTORY.to_lowercase()), None),
    ];
    for (at, (directory, _)) in directories.iter().enumerate() {
        for (id, status) in [(2 * at + 1, "enabled"), (2 * at + 2, "disabled")] {
            bed.exec(&format!(
                "INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, status, entra_tenant_id) \
                 VALUES ({id}, 1, 7, 'microsoft', '{status}', {directory})"
            ))
            .await;
        }
    }
    let filter = |status| ConnectionFilter {
        status,
        limit: 200,
        ..ConnectionFilter::default()
    };
    let all = bed.store.connection_states(&filter(None)).await.unwrap();
    assert_eq!(all.len(), 2 * directories.len());
    let mut unusable = Vec::new();
    for (pair, (directory, found)) in all.chunks(2).zip(&directories) {
        assert_eq!(pair[1].connection.status, ConnectionStatus::Disabled);
        assert_eq!(pair[1].problem, None, "{directory}");
        let state = &pair[0];
        let begin = found.map(|found| format!("provider_connections.entra_tenant_id: {found}"));
        match (begin, &state.problem) {
            (None, None) => assert_eq!(state.connection.status, ConnectionStatus::Enabled),
            (Some(begin), Some(problem)) => {
                assert!(problem.starts_with(&begin), "{problem}");
                assert_eq!(state.connection.status, ConnectionStatus::Unusable);
                unusable.push(state.connection.id);
            }
            (_, problem) => panic!("{directory}: {problem:?}"),
        }
        let start = bed.store.starting_point(state.connection.id).await;
        assert!(start.unwrap().is_some(), "{directory}");
    }
    let status = filter(Some(ConnectionStatus::Unusable));
    let listed = bed.store.connection_states(&status).await.unwrap();
    let listed: Vec<ConnectionId> = listed.iter().map(|state| state.connection.id).collect();
    assert_eq!(listed, unusable);
    let counts = bed.store.connection_counts(&Binding::EVERYTHING).await;
    let counts = counts.unwrap();
    assert_eq!(counts.unusable, unusable.len() as u64);
    assert_eq!(counts.never_checked, 2);
}

/// Another application may compare its texts in any case: PostgreSQL searches no text of such a collation, and takes
/// `Enabled` for `enabled`.
#[tokio::test]
async fn columns_of_any_collation_are_listed_filtered_and_counted() {
    let bed = Bed::postgres().await;
    let bed = &bed;
    // No type of a column that a trigger compares can be changed.
    bed.unguard().await;
    bed.exec(
        "CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         DO $$ DECLARE c record; BEGIN
             FOR c IN SELECT a.attrelid::regclass AS relation, a.attname AS name FROM pg_attribute a
                 WHERE a.attrelid IN ('operation_runs'::regclass, 'provider_connections'::regclass,
                         'provider_credentials'::regclass, 'tenant_permissions'::regclass,
                         'verification_check_acknowledgements'::regclass)
                     AND a.atttypid = 'text'::regtype AND a.attnum > 0 LOOP
                 EXECUTE format('ALTER TABLE %s ALTER %I TYPE text COLLATE any_case', c.relation, c.name);
             END LOOP;
         END $$",
    )
    .await;
    for (id, status, directory) in [
        (1, "enabled", DIRECTORY),
        (2, "disabled", ""),
        (3, "Enabled", DIRECTORY),
        (4, "enabled", "contoso.example"),
    ] {
        bed.exec(&format!(
            "INSERT INTO provider_connections (id, workspace_id, tenant_id, provider, display_name, status, \
                 entra_tenant_id) \
             VALUES ({id}, 1, 7, 'microsoft', 'Contoso {id}', '{status}', '{directory}')"
        ))
        .await;
    }
    let run = bed.completed(&succeeded()).await;
    bed.exec(&format!(
        "INSERT INTO verification_check_acknowledgements (operation_run_id, check_key, reason, \
             acknowledged_by, acknowledged_at) VALUES ({run}, 'a.check', 'seen', 'somebody', now()); \
         INSERT INTO tenant_permissions (tenant_id, permission_key, status) \
         VALUES (8, 'A.Read', 'granted'), (7, 'B.Read', 'Granted')"
    ))
    .await;
    every_surface(bed, "columns of another collation").await;
    let listed = async |status, name: Option<&str>| {
        let filter = ConnectionFilter {
            status,
            name: name.map(str::to_owned),
            limit: 200,
            ..ConnectionFilter::default()
        };
        let found = bed.store.connection_states(&filter).await.unwrap();
        let ids = found.iter().map(|state| state.connection.id.0);
        ids.collect::<Vec<i64>>()
    };
    assert_eq!(listed(None, Some("contoso")).await, [1, 2, 3, 4]);
    assert_eq!(listed(None, Some("SO 2")).await, [2]);
    for (status, ids) in [
        (ConnectionStatus::Enabled, vec![1]),
        (ConnectionStatus::Disabled, vec![2]),
        (ConnectionStatus::Unusable, vec![3, 4]),
    ] {
        assert_eq!(listed(Some(status), None).await, ids, "{status:?}");
    }
    let counts = bed.store.connection_counts(&Binding::EVERYTHING).await;
    let counts = counts.unwrap();
    assert_eq!((counts.unusable, counts.disabled), (2, 1));
    // What `doctor` tries, and what a plan compares.
    let writing = bed.store.try_writing().await.unwrap();
    assert!(matches!(writing, Writing::Accepted { .. }), "{writing:?}");
    let filter = PlanFilter {
        provider: "microsoft".into(),
        keys: vec!["A.Read".into()],
        limit: 200,
        ..PlanFilter::default()
    };
    let subjects = bed.store.plan_subjects(&filter).await.unwrap();
    let ids = subjects.iter().map(|subject| subject.connection.id.0);
    assert_eq!(ids.collect::<Vec<i64>>(), [1, 2]);
}
