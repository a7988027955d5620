//! Reasons that only the side of the worker produces: its network, and its files.

use crate::checks::assert_sound;
use test_support::world::{World, reasons};
use verifyd::domain::Outcome;
use verifyd::domain::credential::Credential;
use verifyd::domain::hint::Hint;
use verifyd::domain::reason::Reason;
use verifyd::engine::pipeline::Processed;
use verifyd_simulator::Scenario;

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_callers_side_can_produce() {
    let world = World::with(|settings| {
        let clouds = &mut settings.microsoft.clouds;
        let mut dead = clouds["simulated"].clone();
        // A port that was free a moment ago, and nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        dead.login = format!("http://127.0.0.1:{port}");
        clouds.insert("dead".to_owned(), dead);
        let mut plain = clouds["simulated"].clone();
        plain.login = plain.login.replace("http:", "https:");
        clouds.insert("not_tls".to_owned(), plain);
    })
    .await;
    let worker = world.worker().await;
    for (cloud, reason) in [
        ("dead", Reason::ProviderUnreachable),
        ("not_tls", Reason::TlsFailed),
    ] {
        let connection = world.healthy(1).await;
        world.set(connection, &format!("cloud = '{cloud}'")).await;
        let id = world.record(connection, |_| {}).await;
        assert_eq!(
            worker.pipeline.process(&Hint::new(id)).await,
            Processed::Completed(Outcome::Failed)
        );
        let run = world.run(id).await;
        assert_sound(&run, cloud);
        assert_eq!(reasons(&run, &["fail"])[0], reason.code(), "{cloud}");
    }
    let stale = world.folder.path().join("stale");
    // Issued and expired in 1970.
    std::fs::write(&stale, "e30.eyJleHAiOjM2MDB9.c2ln").unwrap();
    let missing = world.folder.path().join("not-mounted");
    for (tenant, path, reason) in [
        (2, missing, Reason::FederatedTokenUnreadable),
        (3, stale, Reason::FederatedTokenExpired),
    ] {
        let credential = Credential::FederatedTokenFile { path };
        let directory = Scenario::Healthy.tenant_id(tenant);
        let connection = world
            .connection_with(
                i64::from(tenant),
                &directory,
                "health_check",
                Some(credential),
            )
            .await;
        let id = world.record(connection, |_| {}).await;
        worker.pipeline.process(&Hint::new(id)).await;
        let run = world.run(id).await;
        assert_sound(&run, "federated");
        assert_eq!(reasons(&run, &["fail"])[0], reason.code());
    }
}
