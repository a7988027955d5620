//! The audit trail: an entry in the transaction of each change, and nothing that changes it afterwards.

use crate::store::acknowledgements::{BROKEN, accept, checked, through};
use crate::store::bed::Bed;
use crate::store::fixtures::{bound, new_connection, sealed};
use serde_json::{Value, json};
use std::time::Duration;
use test_support::world::operator;
use verifyd::domain::access::{Binding, Scope};
use verifyd::domain::acknowledgement::{Actor, Surface};
use verifyd::domain::audit::{AuditAction, AuditEntry, AuditObject, Change, Origin};
use verifyd::domain::connection::{ConnectionStatus, CredentialBinding};
use verifyd::domain::webhook::{DisabledReason, WebhookBinding};
use verifyd::domain::{AuditEntryId, ConnectionId, TokenId, WorkspaceId, token};
use verifyd::operations::OperationError;
use verifyd::operations::connections::set_credential_expiry;
use verifyd::ports::access::{NewToken, TokenRecord};
use verifyd::ports::audit::AuditFilter;
use verifyd::ports::vault::VaultError;
use verifyd::ports::webhook_endpoints::{NewEndpoint, SealedSecrets};
use verifyd::view::AuditEntryView;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Whatever must not be in an entry, as a part of a longer text.
const SECRET: &str = "s3cret";

/// Somebody with a browser.
fn visitor() -> Origin {
    Origin {
        actor: Actor {
            surface: Surface::Pages,
            token_id: Some(TokenId(7)),
            name: "console".into(),
        },
        address: Some("2001:db8::7".into()),
        request_id: Some("r-1".into()),
    }
}

async fn entries(bed: &Bed, change: impl FnOnce(&mut AuditFilter)) -> Vec<AuditEntry> {
    let mut filter = AuditFilter {
        limit: 1000,
        ..AuditFilter::default()
    };
    change(&mut filter);
    bed.store.audit_entries(&filter).await.unwrap()
}

/// The entry that has been added since the last look, and no other one.
struct Look<'a> {
    bed: &'a Bed,
    seen: usize,
}

impl Look<'_> {
    async fn one(&mut self, action: AuditAction) -> AuditEntry {
        let all = entries(self.bed, |_| {}).await;
        assert_eq!(all.len(), self.seen + 1, "{action}: {all:#?}");
        self.seen += 1;
        let entry = all.into_iter().next().unwrap();
        assert_eq!(entry.action, action.as_str());
        assert_eq!(entry.object, action.object().as_str());
        entry
    }

    async fn none(&self, what: &str) {
        let all = entries(self.bed, |_| {}).await;
        assert_eq!(all.len(), self.seen, "{what}: {all:#?}");
    }
}

pub async fn token(bed: &Bed, name: &str, binding: Binding) -> TokenRecord {
    let new = NewToken {
        name: name.into(),
        hash: token::sha256_hex(name),
        scopes: vec![Scope::Read, Scope::Audit],
        binding,
        expires_at: Some("2999-12-31T00:00:00Z".parse().unwrap()),
    };
    bed.store.add_token(&new, operator()).await.unwrap()
}

fn new_endpoint() -> NewEndpoint {
    NewEndpoint {
        workspace_id: WorkspaceId(1),
        url: format!("https://receiver.example/hook/{SECRET}?key={SECRET}"),
        description: None,
        changed_only: true,
    }
}

fn place(binding: &WebhookBinding) -> Result<String, VaultError> {
    Ok(format!("{SECRET} of {}", binding.endpoint_id))
}

fn before_and_after(entry: &AuditEntry) -> (Value, Value) {
    let value = |value: &Option<Value>| value.clone().unwrap_or_default();
    (value(&entry.before), value(&entry.after))
}

/// Each write of the store leaves one entry; what changes nothing leaves none. Nothing secret is in any.
pub async fn each_change_leaves_one_entry_and_no_secret(bed: &Bed) {
    let store = &bed.store;
    let mut look = Look { bed, seen: 0 };

    let made = token(bed, "one", bound(1, Some(7))).await;
    let entry = look.one(AuditAction::TokenCreated).await;
    assert_eq!(entry.object_id, Some(made.id.0));
    assert_eq!(entry.owner, bound(1, Some(7)));
    assert_eq!((entry.surface.as_str(), entry.token_id), ("cli", None));
    assert_eq!(entry.actor, operator().actor.name);
    let after = json!({
        "name": "one",
        "scopes": ["read", "audit"],
        "expires_at": "2999-12-31T00:00:00Z",
    });
    assert_eq!(before_and_after(&entry), (Value::Null, after));

    let (session, by) = (token::sha256_hex(SECRET), visitor());
    let opened = store.open_session(made.id, &session, SECRET, DAY, None, &by);
    opened.await.unwrap();
    let entry = look.one(AuditAction::SignedIn).await;
    assert_eq!(entry.owner, bound(1, Some(7)));
    assert_eq!(entry.token_id, Some(TokenId(7)));
    assert_eq!(entry.address.as_deref(), Some("2001:db8::7"));
    assert_eq!(entry.request_id.as_deref(), Some("r-1"));
    // Another one in its place.
    let (next, old) = (token::sha256_hex("next"), Some(session.as_str()));
    let opened = store.open_session(made.id, &next, SECRET, DAY, old, &by);
    opened.await.unwrap();
    look.one(AuditAction::SignedIn).await;
    assert_eq!(bed.count(&bed.own("page_sessions")).await, 1);
    store.close_session(&next, &visitor()).await.unwrap();
    look.one(AuditAction::SignedOut).await;
    store.close_session(&next, &visitor()).await.unwrap();
    look.none("a session that is closed").await;
    assert!(store.revoke_token(made.id, operator()).await.unwrap());
    look.one(AuditAction::TokenRevoked).await;
    assert!(!store.revoke_token(made.id, operator()).await.unwrap());
    look.none("a token that is revoked").await;

    let seal = |binding: CredentialBinding| Ok(sealed(binding.connection_id, SECRET));
    let new = new_connection(7);
    let added = store.add_connection(&new, Some(&seal), operator()).await;
    let id = added.unwrap();
    let entry = look.one(AuditAction::ConnectionAdded).await;
    assert_eq!(
        (entry.object_id, entry.owner),
        (Some(id.0), bound(1, Some(7)))
    );
    let (_, after) = before_and_after(&entry);
    assert_eq!(after["client_id"], json!(new.client_id));
    assert_eq!(after["credential"]["kind"], json!(sealed(id, SECRET).kind));
    let disabled = ConnectionStatus::Disabled;
    let set = store.set_connection_status(id, disabled, operator()).await;
    assert!(set.unwrap());
    let again = store.set_connection_status(id, disabled, operator()).await;
    assert!(again.unwrap());
    let entry = look.one(AuditAction::ConnectionDisabled).await;
    assert_eq!(
        before_and_after(&entry),
        (
            json!({ "status": "enabled" }),
            json!({ "status": "disabled" })
        )
    );
    let nobody = ConnectionId(987_654);
    let set = store
        .set_connection_status(nobody, disabled, operator())
        .await;
    assert!(!set.unwrap());
    look.none("a connection that is not there").await;

    let old = sealed(id, SECRET);
    let new = sealed(id, &format!("another {SECRET}"));
    store.set_credential(id, &new, operator()).await.unwrap();
    let entry = look.one(AuditAction::CredentialReplaced).await;
    assert_eq!(entry.owner, bound(1, Some(7)));
    let (before, after) = before_and_after(&entry);
    assert_eq!(
        (&before["kind"], &after["kind"]),
        (&json!(old.kind), &json!(new.kind))
    );
    assert_eq!(
        before["expires_at"], after["expires_at"],
        "both are written alike"
    );
    let end = "2999-12-31T23:59:59Z";
    for _ in 0..2 {
        let set = store.set_credential_expiry(id, end.parse().unwrap(), operator());
        assert!(set.await.unwrap());
    }
    let entry = look.one(AuditAction::CredentialExpirySet).await;
    let (before, now) = before_and_after(&entry);
    assert_eq!(before, after);
    assert_eq!(now, json!({ "kind": new.kind, "expires_at": end }));
    let shown = AuditEntryView::from(entry).changes();
    assert_eq!(shown.len(), 1, "{shown:?}");
    let swap = store.reseal_credential(id, &new.payload, SECRET, operator());
    assert!(swap.await.unwrap());
    look.one(AuditAction::CredentialResealed).await;
    let swap = store.reseal_credential(id, &new.payload, SECRET, operator());
    assert!(!swap.await.unwrap());
    look.none("a credential that has changed meanwhile").await;

    let endpoint = store
        .add_endpoint(&new_endpoint(), &place, operator())
        .await;
    let endpoint = endpoint.unwrap().id;
    let entry = look.one(AuditAction::EndpointAdded).await;
    assert_eq!(
        (entry.object_id, entry.owner),
        (Some(endpoint.0), bound(1, None))
    );
    let (_, after) = before_and_after(&entry);
    assert_eq!(after["origin"], json!("https://receiver.example"));
    for (is_kept, seconds) in [(false, 0), (true, DAY.as_secs())] {
        let rotate = |binding: &WebhookBinding, previous: String| {
            place(binding).map(|current| SealedSecrets {
                current,
                previous: Some(previous).filter(|_| is_kept),
            })
        };
        let rotated = store
            .rotate_secret(endpoint, &rotate, DAY, operator())
            .await;
        assert!(rotated.unwrap().is_some());
        let entry = look.one(AuditAction::EndpointSecretRotated).await;
        let (_, after) = before_and_after(&entry);
        assert_eq!(after["keep_previous_seconds"], json!(seconds));
    }
    for (disabled, action) in [
        (
            Some(DisabledReason::Operator),
            AuditAction::EndpointDisabled,
        ),
        (None, AuditAction::EndpointEnabled),
    ] {
        for _ in 0..2 {
            let set = store
                .set_endpoint_enabled(endpoint, disabled, operator())
                .await;
            assert!(set.unwrap());
        }
        let (before, after) = before_and_after(&look.one(action).await);
        assert_eq!(after["enabled"], json!(disabled.is_none()));
        assert_eq!(before["enabled"], json!(disabled.is_some()));
    }
    let current = place(&WebhookBinding {
        workspace_id: WorkspaceId(1),
        endpoint_id: endpoint,
        url: String::new(),
    });
    let now = SealedSecrets {
        current: current.unwrap(),
        previous: None,
    };
    let now = SealedSecrets {
        previous: Some(now.current.clone()),
        ..now
    };
    let resealed = store.reseal_secrets(endpoint, &now, &now, operator()).await;
    assert!(resealed.unwrap());
    look.one(AuditAction::EndpointResealed).await;
    assert!(store.remove_endpoint(endpoint, operator()).await.unwrap());
    let entry = look.one(AuditAction::EndpointRemoved).await;
    let (before, _) = before_and_after(&entry);
    assert_eq!(before["changed_only"], json!(true));
    assert!(!store.remove_endpoint(endpoint, operator()).await.unwrap());
    look.none("an endpoint that is removed").await;

    let run = checked(bed, id.0, &[BROKEN]).await;
    let new = accept(run, id.0, BROKEN);
    let (made, _) = store.acknowledge(&new).await.unwrap().unwrap();
    let entry = look.one(AuditAction::AcknowledgementAdded).await;
    assert_eq!(entry.object_id, Some(made.id.0));
    assert_eq!(entry.owner, bound(1, Some(7)));
    assert_eq!(
        (entry.surface.as_str(), entry.actor),
        ("api", through().name)
    );
    store.acknowledge(&new).await.unwrap().unwrap();
    look.none("a check that is acknowledged").await;
    for _ in 0..2 {
        let withdrawn = store.withdraw(made.id, "Bob", &visitor()).await;
        assert!(withdrawn.unwrap().is_some());
        let seen = look.seen;
        if entries(bed, |_| {}).await.len() > seen {
            let entry = look.one(AuditAction::AcknowledgementWithdrawn).await;
            let (_, after) = before_and_after(&entry);
            assert_eq!(after["withdrawn_by"], json!("Bob"));
        }
    }
    let withdrawn = |filter: &mut AuditFilter| {
        filter.action = Some(AuditAction::AcknowledgementWithdrawn);
    };
    assert_eq!(entries(bed, withdrawn).await.len(), 1);

    for entry in entries(bed, |_| {}).await {
        assert!(!format!("{entry:?}").contains(SECRET), "{entry:?}");
    }
    for row in bed.dump(&bed.own("audit_entries")).await {
        assert!(!row.contains(SECRET), "{row}");
    }
}

/// What fails is not in the trail: the entry goes with its change.
pub async fn what_is_rolled_back_leaves_no_entry(bed: &Bed) {
    let look = Look { bed, seen: 0 };
    let refuse = |_: CredentialBinding| Err(VaultError::NoKey);
    let new = new_connection(7);
    let failed = bed
        .store
        .add_connection(&new, Some(&refuse), operator())
        .await;
    assert!(failed.is_err());
    let refuse = |_: &WebhookBinding| Err(VaultError::NoKey);
    let failed = bed
        .store
        .add_endpoint(&new_endpoint(), &refuse, operator())
        .await;
    assert!(failed.is_err());
    look.none("refused seals").await;
    // And where the entry cannot be written, the change is not made.
    let table = bed.own("audit_entries");
    bed.exec(&format!(
        "ALTER TABLE {table} RENAME COLUMN actor TO another"
    ))
    .await;
    let failed = bed.store.add_connection(&new, None, operator()).await;
    assert!(failed.is_err());
    assert_eq!(bed.count("provider_connections").await, 0);
}

/// Whoever owns the table can write what verifyd never would.
pub async fn entries_that_others_wrote_stop_no_list(bed: &Bed) {
    let table = bed.own("audit_entries");
    for at in ["-infinity", "infinity"] {
        bed.exec(&format!(
            "INSERT INTO {table} (at, action, object, surface, actor, after) \
             VALUES ('{at}', 'token.created', 'token', 'cli', 'somebody', '{{\"a\": 1e999, \"b\": 1}}')"
        ))
        .await;
    }
    token(bed, "one", Binding::EVERYTHING).await;
    let found = entries(bed, |_| {}).await;
    let times: Vec<String> = found.iter().map(|entry| entry.at.to_rfc3339()).collect();
    assert_eq!(times.len(), 3);
    assert_eq!(
        times[1..],
        ["9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+00:00"]
    );
    assert_eq!(before_and_after(&found[1]).1["b"], json!(1));
}

/// What another transaction has not committed yet is there once the entry is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_that_is_set_meanwhile_is_what_was_there_before() {
    let bed = Bed::postgres().await;
    let id = bed.connection_with(7, "payload").await;
    let mut other = bed.pg().begin().await.unwrap();
    for statement in [
        "SELECT FROM provider_connections FOR UPDATE",
        "UPDATE provider_credentials SET expires_at = '2998-01-01T00:00:00Z'",
    ] {
        sqlx::query(statement).execute(&mut *other).await.unwrap();
    }
    let end = "2999-12-31T23:59:59Z".parse().unwrap();
    let setting = bed.store.set_credential_expiry(id, end, operator());
    let committing = async {
        bed.somebody_waits_for_a_lock().await;
        other.commit().await.unwrap();
    };
    let (set, ()) = tokio::join!(setting, committing);
    assert!(set.unwrap());
    let newest = entries(&bed, |_| {}).await.swap_remove(0);
    let (before, _) = before_and_after(&newest);
    assert_eq!(before["expires_at"], json!("2998-01-01T00:00:00Z"));
}

/// Another application deletes the credential alone, then the connection, without having committed it yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_of_what_is_deleted_meanwhile_leaves_no_entry() {
    let bed = Bed::postgres().await;
    let end = "2999-12-31T23:59:59Z".parse().unwrap();
    for (tenant, delete, connection_is_gone) in [
        (7, "DELETE FROM provider_credentials", false),
        (8, "DELETE FROM provider_connections", true),
    ] {
        let id = bed.connection_with(tenant, "payload").await;
        let mut other = bed.pg().begin().await.unwrap();
        sqlx::query(delete).execute(&mut *other).await.unwrap();
        let setting = set_credential_expiry(&*bed.store, id, end, operator());
        let committing = async {
            bed.somebody_waits_for_a_lock().await;
            other.commit().await.unwrap();
        };
        let (set, ()) = tokio::join!(setting, committing);
        let refused = set.unwrap_err();
        let is_not_found = matches!(refused, OperationError::NotFound { .. });
        assert_eq!(is_not_found, connection_is_gone, "{refused}");
    }
    let set = entries(&bed, |filter| {
        filter.action = Some(AuditAction::CredentialExpirySet);
    })
    .await;
    assert!(set.is_empty(), "{set:?}");
}

pub async fn entries_are_read_within_reach_filtered_and_paged(bed: &Bed) {
    let store = &bed.store;
    for (name, binding) in [
        ("everywhere", Binding::EVERYTHING),
        ("workspace", bound(1, None)),
        ("tenant", bound(1, Some(7))),
        ("stranger", bound(2, Some(7))),
    ] {
        token(bed, name, binding).await;
    }
    let connection = bed.connection(7).await;
    let refused = Change::new(AuditAction::SignInRefused, None::<i64>, Binding::EVERYTHING);
    store.add_audit_entry(&refused, &visitor()).await.unwrap();
    assert_eq!(ids(bed, |_| {}).await, [6, 5, 4, 3, 2, 1]);
    for (binding, within) in [
        (bound(1, None), &[5, 3, 2][..]),
        (bound(1, Some(7)), &[5, 3]),
        (bound(2, None), &[4]),
        (bound(1, Some(8)), &[]),
    ] {
        assert_eq!(ids(bed, |filter| filter.binding = binding).await, within);
    }
    let created = Some(AuditAction::TokenCreated);
    assert_eq!(ids(bed, |f| f.action = created).await, [4, 3, 2, 1]);
    let of_connection = |filter: &mut AuditFilter| {
        filter.object = Some(AuditObject::Connection);
        filter.object_id = Some(connection.0);
    };
    assert_eq!(ids(bed, of_connection).await, [5]);
    assert_eq!(ids(bed, |f| f.token = Some(TokenId(7))).await, [6]);
    assert_eq!(ids(bed, |f| f.actor = Some("console".into())).await, [6]);
    let (past, future) = ("2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z");
    assert_eq!(
        ids(bed, |f| f.since = Some(future.parse().unwrap())).await,
        Vec::<i64>::new()
    );
    assert_eq!(
        ids(bed, |f| f.until = Some(past.parse().unwrap())).await,
        Vec::<i64>::new()
    );
    assert_eq!(
        ids(bed, |f| f.since = Some(past.parse().unwrap()))
            .await
            .len(),
        6
    );
    for (before, page) in [(None, &[6, 5, 4, 3][..]), (Some(3), &[2, 1])] {
        let change = |filter: &mut AuditFilter| {
            filter.before = before.map(AuditEntryId);
            filter.limit = 4;
        };
        assert_eq!(ids(bed, change).await, page);
    }
}

pub async fn ids(bed: &Bed, change: impl FnOnce(&mut AuditFilter)) -> Vec<i64> {
    let found = entries(bed, change).await;
    found.iter().map(|entry| entry.id.0).collect()
}
