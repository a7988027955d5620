//! Provider connections and their credentials.

use crate::store::bed::Bed;
use crate::store::fixtures::{new_connection, sealed};
use std::sync::Mutex;
use test_support::world::operator;
use verifyd::domain::connection::{
    ConnectionStatus, CredentialBinding, CredentialKind, StoredCredential,
};
use verifyd::domain::{ConnectionId, TenantId, WorkspaceId};
use verifyd::ports::store::{AddConnectionError, StoreError};
use verifyd::ports::vault::VaultError;

async fn credential(bed: &Bed, id: ConnectionId) -> StoredCredential {
    bed.store.connection(id).await.unwrap().unwrap().1.unwrap()
}

pub async fn a_connection_is_added_and_read(bed: &Bed) {
    let seen = Mutex::new(None);
    let seal = |binding: CredentialBinding| {
        *seen.lock().unwrap() = Some(binding);
        Ok(sealed(binding.connection_id, "payload"))
    };
    let new = new_connection(7);
    let id = bed
        .store
        .add_connection(&new, Some(&seal), operator())
        .await
        .unwrap();
    let (connection, credential) = bed.store.connection(id).await.unwrap().unwrap();
    assert_eq!(*seen.lock().unwrap(), Some(connection.binding()));
    assert_eq!(connection.id, id);
    assert_eq!(
        (connection.workspace_id, connection.tenant_id),
        (WorkspaceId(1), TenantId(7))
    );
    assert_eq!(connection.provider, "microsoft");
    assert_eq!(connection.display_name.as_deref(), Some("Contoso"));
    assert_eq!(connection.status, ConnectionStatus::Enabled);
    assert_eq!(connection.entra_tenant_id, Some(new.entra_tenant_id));
    assert_eq!(connection.client_id, Some(new.client_id));
    assert_eq!(connection.cloud.as_deref(), Some("global"));
    assert_eq!(connection.module.as_deref(), Some("core"));
    assert!(connection.created_at.is_some() && connection.updated_at.is_some());
    let credential = credential.unwrap();
    let expected = sealed(id, "payload");
    assert_eq!(credential.connection_id, id);
    assert_eq!(credential.kind, expected.kind);
    assert_eq!(credential.payload, expected.payload);
    assert_eq!(credential.expiry.at(), expected.expires_at);
    assert_eq!(bed.count("tenants WHERE id = 7").await, 1);

    let bare = bed.connection(7).await;
    assert_eq!(bed.store.connection(bare).await.unwrap().unwrap().1, None);
    assert_eq!(
        bed.store.connection(ConnectionId(987_654)).await.unwrap(),
        None
    );
}

pub async fn a_failing_seal_inserts_nothing(bed: &Bed) {
    let seal = |_: CredentialBinding| Err(VaultError::NoKey);
    let new = new_connection(7);
    let failed = bed
        .store
        .add_connection(&new, Some(&seal), operator())
        .await;
    assert!(matches!(
        failed,
        Err(AddConnectionError::Vault(VaultError::NoKey))
    ));
    for table in ["provider_connections", "provider_credentials", "tenants"] {
        assert_eq!(bed.count(table).await, 0, "{table}");
    }
    bed.connection_with(7, "payload").await;
}

pub async fn a_tenant_of_another_workspace_is_refused(bed: &Bed) {
    bed.connection_with(7, "payload").await;
    let mut stranger = new_connection(7);
    stranger.workspace_id = WorkspaceId(2);
    let refused = bed.store.add_connection(&stranger, None, operator()).await;
    assert!(matches!(
        refused,
        Err(AddConnectionError::Store(StoreError::Refused(_)))
    ));
    assert_eq!(bed.count("provider_connections").await, 1);
}

pub async fn a_connection_is_disabled_and_enabled(bed: &Bed) {
    let id = bed.connection_with(7, "payload").await;
    for status in [ConnectionStatus::Disabled, ConnectionStatus::Enabled] {
        assert!(
            bed.store
                .set_connection_status(id, status, operator())
                .await
                .unwrap()
        );
        assert_eq!(
            bed.store.connection(id).await.unwrap().unwrap().0.status,
            status
        );
    }
    let nobody = ConnectionId(987_654);
    let disabled = ConnectionStatus::Disabled;
    let changed = bed
        .store
        .set_connection_status(nobody, disabled, operator())
        .await;
    assert!(!changed.unwrap());
}

pub async fn a_credential_is_replaced(bed: &Bed) {
    let id = bed.connection_with(7, "payload").await;
    let mut new = sealed(id, "another");
    new.kind = CredentialKind::Certificate;
    new.expires_at = None;
    bed.store
        .set_credential(id, &new, operator())
        .await
        .unwrap();
    let stored = credential(bed, id).await;
    assert_eq!(
        (stored.kind, stored.payload, stored.expiry.at()),
        (new.kind, new.payload, None)
    );
    assert_eq!(bed.count("provider_credentials").await, 1);

    let bare = bed.connection(7).await;
    bed.set_credential(bare, "first").await;
    assert_eq!(
        credential(bed, bare).await.payload,
        sealed(bare, "first").payload
    );

    let nobody = ConnectionId(987_654);
    let secret = sealed(nobody, "s3cret");
    let refused = bed
        .store
        .set_credential(nobody, &secret, operator())
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused}");
    assert!(!refused.to_string().contains("s3cret"), "{refused}");
}

pub async fn a_credential_is_resealed_only_from_the_old_payload(bed: &Bed) {
    let id = bed.connection_with(7, "old").await;
    let other = bed.connection_with(7, "old").await;
    // No time of this test: an UPDATE that wrote one would be seen.
    bed.exec("UPDATE provider_credentials SET updated_at = '2026-01-02T03:04:05Z'")
        .await;
    let before = credential(bed, id).await;
    assert!(before.updated_at.is_some());
    let old = sealed(id, "old").payload;
    for (new, resealed) in [("new", true), ("newer", false)] {
        let swapped = bed.store.reseal_credential(id, &old, new, operator()).await;
        assert_eq!(swapped.unwrap(), resealed, "{new}");
    }
    assert_eq!(credential(bed, id).await.payload, "new");
    assert_eq!(
        credential(bed, other).await.payload,
        sealed(other, "old").payload
    );
    let stored = credential(bed, id).await;
    assert_eq!(stored.expiry.at(), sealed(id, "old").expires_at);
    // A check would otherwise take it for a new one, which Microsoft may not know everywhere yet.
    assert_eq!(stored.updated_at, before.updated_at);
}

pub async fn connections_are_paged(bed: &Bed) {
    let mut ids = Vec::new();
    for tenant in [7, 8, 7, 7] {
        ids.push(bed.connection_with(tenant, "payload").await);
    }
    let page = async |tenant, after, limit| -> Vec<ConnectionId> {
        let found = bed.store.connections(tenant, after, limit).await.unwrap();
        found.into_iter().map(|c| c.id).collect()
    };
    assert_eq!(page(None, None, 10).await, ids);
    assert_eq!(page(None, None, 2).await, ids[..2]);
    assert_eq!(page(None, Some(ids[1]), 2).await, ids[2..]);
    assert_eq!(page(Some(TenantId(7)), None, 2).await, [ids[0], ids[2]]);
    assert_eq!(page(Some(TenantId(7)), Some(ids[2]), 2).await, [ids[3]]);
    assert_eq!(page(Some(TenantId(9)), None, 2).await, []);
}

pub async fn credentials_are_paged_with_their_connections(bed: &Bed) {
    let first = bed.connection_with(7, "a").await;
    bed.connection(7).await;
    let second = bed.connection_with(8, "b").await;
    let all = bed.store.credentials(None, 10).await.unwrap();
    let seen: Vec<_> = all.iter().map(|found| found.connection.id).collect();
    assert_eq!(seen, [first, second]);
    let (binding, stored) = all[1].credential.as_ref().unwrap();
    assert_eq!(
        (binding.connection_id, stored.connection_id),
        (second, second)
    );
    assert_eq!(stored.payload, sealed(second, "b").payload);
    assert_eq!(bed.store.credentials(None, 1).await.unwrap().len(), 1);
    let rest = bed.store.credentials(Some(first), 10).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].connection.id, second);
}
