//! Run, connection, credential, target and token of different tenants, in every combination: only
//! where all of them are one tenant's is the provider asked and anything written.

use crate::checks::assert_sound;
use crate::checks::hostile_provider::{checked, cloud};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use serde_json::json;
use std::sync::atomic::Ordering;
use test_support::hostile_server::{At, Hostile, HostileServer, answer};
use test_support::tenant_combinations::{Combination, OWNERS, TOKENS, entra};
use test_support::world::operator;
use test_support::world::{World, reasons};
use verifyd::domain::connection::NewConnection;
use verifyd::domain::credential::Credential;
use verifyd::domain::hint::Hint;
use verifyd::domain::reason::Reason;
use verifyd::domain::{ConnectionId, Outcome, TenantId, WorkspaceId};
use verifyd::engine::pipeline::Processed;
use verifyd::ports::vault::SealedCredential;
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

fn client(owner: usize) -> String {
    format!("5c000000-0000-4000-8000-c0000000000{owner}")
}

fn name(owner: usize) -> String {
    format!("The customer number {owner}")
}

fn secret() -> Credential {
    Credential::ClientSecret {
        secret: SecretString::from(SIMULATED_SECRET),
        client_id: None,
    }
}

/// A connection of the owner, with a credential of its own.
async fn connection(world: &World, owner: usize, tokens: Scenario, cloud: &str) -> ConnectionId {
    let new = NewConnection {
        workspace_id: WorkspaceId(OWNERS[owner].0),
        tenant_id: TenantId(OWNERS[owner].1),
        provider: "microsoft".into(),
        display_name: Some(name(owner)),
        entra_tenant_id: entra(owner, tokens),
        client_id: client(owner),
        cloud: cloud.into(),
        module: Some("health_check".into()),
    };
    let vault = &world.services.vault;
    let seal = |binding| vault.seal(binding, &secret(), None);
    let store = &world.services.store;
    store
        .add_connection(&new, Some(&seal), operator())
        .await
        .unwrap()
}

/// Requests of any kind, by owner and scenario.
fn requests(world: &World) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for owner in 0..OWNERS.len() {
        for tokens in TOKENS {
            let entra = entra(owner, tokens);
            let total = world.simulator.calls(&entra).total;
            all.push((entra, total));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_combination_of_tenants_crosses_over() {
    let world = World::new().await;
    let store = &world.services.store;
    let worker = world.worker().await;

    // By owner of the connection, tokens, and whom the credential in its row was sealed for.
    let mut connections = std::collections::BTreeMap::new();
    for owner in 0..OWNERS.len() {
        for tokens in TOKENS {
            for credential in 0..OWNERS.len() {
                let id = connection(&world, owner, tokens, "simulated").await;
                connections.insert((owner, tokens, credential), id);
            }
        }
    }
    // The ciphertexts themselves are moved, as whoever writes to the database could.
    let mut payloads = Vec::new();
    for (&(owner, tokens, credential), &id) in &connections {
        let source = connections[&(credential, tokens, credential)];
        let (_, stored) = store.connection(source).await.unwrap().unwrap();
        if owner != credential {
            payloads.push((id, stored.unwrap()));
        }
    }
    assert_eq!(payloads.len(), 12);
    for (id, stored) in payloads {
        let sealed = SealedCredential {
            kind: stored.kind,
            payload: stored.payload,
            expires_at: stored.expiry.at(),
        };
        store.set_credential(id, &sealed, operator()).await.unwrap();
    }

    let combinations = Combination::all();
    assert_eq!(combinations.len(), 162);
    for combination in combinations {
        let what = format!("{combination:?}");
        let Combination {
            run: owner, target, ..
        } = combination;
        let id = connections[&(
            combination.connection,
            combination.tokens,
            combination.credential,
        )];
        let before = requests(&world);
        let latest = store.latest_report(id).await.unwrap();
        let run = world
            .record(id, |new| {
                new.workspace_id = WorkspaceId(OWNERS[owner].0);
                new.tenant_id = Some(TenantId(OWNERS[owner].1));
                new.context["target_scope"] =
                    json!({"entra_tenant_id": entra(target, combination.tokens)});
            })
            .await;
        let processed = worker.pipeline.process(&Hint::new(run)).await;
        let (outcome, reason) = combination.expected();
        assert_eq!(processed, Processed::Completed(outcome), "{what}");
        let run = world.run(run).await;
        assert_sound(&run, &what);
        assert_eq!(
            reasons(&run, &["fail"]).first().map(String::as_str),
            reason.map(Reason::code),
            "{what}"
        );

        // Who was asked: the one tenant that all of it belongs to, or nobody.
        for ((asked, was), (_, is)) in before.iter().zip(requests(&world)) {
            let own = outcome != Outcome::Blocked && *asked == entra(owner, combination.tokens);
            assert!(own || *was == is, "{what}: {asked} was asked");
        }
        // The report, by which the next one is compared, changes for the run's own connection only.
        let now = store.latest_report(id).await.unwrap();
        if owner == combination.connection {
            assert_eq!(now.unwrap().operation_run_id, run.id, "{what}");
        } else {
            assert_eq!(now, latest, "{what}");
        }
        // Nothing of another owner is told. (The target is the run's own word.)
        let told = format!("{} {}", run.report().unwrap(), run.failure_summary);
        for other in (0..OWNERS.len()).filter(|other| *other != owner) {
            let own_word = |text: &str| text == entra(target, combination.tokens);
            for tokens in TOKENS {
                let entra = entra(other, tokens);
                let said = reason == Some(Reason::TargetScopeMismatch) && own_word(&entra);
                assert!(said || !told.contains(&entra), "{what}: {told}");
            }
            assert!(!told.contains(&client(other)), "{what}: {told}");
            assert!(!told.contains(&name(other)), "{what}: {told}");
        }
        if owner != combination.connection {
            assert!(run.report().unwrap()["previous_report_id"].is_null());
        }
    }

    // What is granted was read by runs of the tenant itself that succeeded, and by no other.
    for (owner, (_, tenant)) in OWNERS.iter().enumerate() {
        let tenant = TenantId(*tenant);
        let fresh = store.inventory_freshness(tenant).await.unwrap().unwrap();
        let run = world.run(fresh.operation_run_id).await;
        assert_eq!(run.tenant_id, Some(tenant));
        assert_eq!(run.outcome, Some(Outcome::Succeeded));
        assert_eq!(
            run.report().unwrap()["identity"]["client_id"],
            client(owner)
        );
        assert!(!store.permissions(tenant).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_any_other_tenant_is_not_presented_to_anyone() {
    let token = |tid: &str| {
        let claims = json!({"tid": tid, "roles": ["Organization.Read.All"]}).to_string();
        let token = format!(
            "eyJhbGciOiJub25lIn0.{}.c2ln",
            URL_SAFE_NO_PAD.encode(claims)
        );
        let body = json!({"token_type": "Bearer", "expires_in": 3599, "access_token": token});
        Hostile::Bytes(answer("200 OK", "", body.to_string().as_bytes()))
    };
    let mut servers = Vec::new();
    for owner in 0..OWNERS.len() {
        for other in 0..OWNERS.len() {
            let own = entra(owner, Scenario::Healthy);
            let reply = token(&entra(other, Scenario::Healthy));
            servers.push((
                owner,
                other,
                HostileServer::start(At::Token, reply, &own).await,
            ));
        }
    }
    let world = World::with(|settings| {
        for (owner, other, server) in &servers {
            cloud(settings, &format!("c_{owner}_{other}"), &server.url());
        }
    })
    .await;
    for (owner, other, server) in &servers {
        let key = format!("c_{owner}_{other}");
        let id = connection(&world, *owner, Scenario::Healthy, &key).await;
        let run = checked(&world, id, &key).await;
        let asked = server.hostile.load(Ordering::Relaxed);
        let mismatch = reasons(&run, &["fail"]) == [Reason::IdentityMismatch.code()];
        assert_eq!(mismatch, owner != other, "{key}");
        // The sign-in, and with one's own token also the calls after it.
        assert_eq!(asked == 1, owner != other, "{key}: {asked} requests");
        let tenant = TenantId(OWNERS[*owner].1);
        let store = &world.services.store;
        assert!(store.permissions(tenant).await.unwrap().is_empty(), "{key}");
        assert_eq!(
            store.inventory_freshness(tenant).await.unwrap(),
            None,
            "{key}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_app_in_two_tenants_has_a_token_for_each() {
    let world = World::new().await;
    let worker = world.worker().await;
    for owner in [0, 1] {
        let id = connection(&world, owner, Scenario::Healthy, "simulated").await;
        // The same app and the same secret in both.
        world.set(id, &format!("client_id = '{}'", client(0))).await;
        let run = world.record(id, |_| {}).await;
        assert_eq!(
            worker.pipeline.process(&Hint::new(run)).await,
            Processed::Completed(Outcome::Succeeded)
        );
        let calls = world.simulator.calls(&entra(owner, Scenario::Healthy));
        assert_eq!(calls.of(verifyd_simulator::Endpoint::Token), 1);
        assert_eq!(calls.of(verifyd_simulator::Endpoint::Organization), 1);
    }
}
