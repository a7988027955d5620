//! The commands of docs/guides/alerts.md work as they stand there, with the rights of the service.

use std::collections::BTreeMap;
use test_support::bench::Bench;
use test_support::waiting::until;
use verifyd_simulator::Scenario;

/// The arguments of the commands of a page: in backquotes, or as lines of a block.
fn commands(page: &str) -> Vec<Vec<&str>> {
    let named = page.match_indices("verifyd ").filter_map(|(at, name)| {
        let is_command = page[..at].ends_with(['`', '\n']);
        let rest = &page[at + name.len()..];
        let end = rest.find(['`', '\n', '#']).unwrap_or(rest.len());
        is_command.then(|| rest[..end].split_whitespace().collect())
    });
    named.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_runbooks_work_with_the_rights_of_serve() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new().await;
    bench.set("RUNTIME_DIRECTORY", folder.path().to_str().unwrap());
    let entra = Scenario::SecretExpired.tenant_id(1);
    let connection = bench.connection(1, &entra, "health_check");
    // A name that leads to loopback and is configured no longer: each attempt to send ends at once.
    let loopback = "VERIFYD__WEBHOOKS__LOOPBACK_HOSTS";
    bench.set(loopback, "localhost");
    let hook = "https://localhost/hook";
    let endpoint = bench.json(&["webhooks", "add", "--workspace", "1", "--url", hook]);
    bench.set(loopback, "");
    bench.grant().await;
    bench.become_role("verifyd_serve");
    let daemon = bench.serve(&[]);
    bench.set("VERIFYD__HTTP__LISTEN", daemon.listening.as_str());
    let run = bench.record(&[connection], 1).await[0];
    bench.all_completed().await;
    until("a delivery was tried", async || {
        bench.json(&["webhooks", "deliveries"])[0]["last_result"] == "address_refused"
    })
    .await;
    let delivery = bench.json(&["webhooks", "deliveries"])[0]["id"].to_string();
    let values = BTreeMap::from([
        ("ID", run.to_string()),
        ("ENDPOINT", endpoint["endpoint"]["id"].to_string()),
        ("DELIVERY", delivery),
    ]);
    let commands = commands(include_str!("../../../docs/guides/alerts.md"));
    assert!(commands.len() > 10, "{commands:?}");
    for command in &commands {
        let filled = command
            .iter()
            .map(|word| values.get(word).map_or(*word, String::as_str));
        let filled: Vec<&str> = filled.collect();
        bench.success(&filled);
    }
}
