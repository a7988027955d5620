//! Run, connection, credential, target and token of different tenants, in every combination, on two workers
//! of the real binary. What each report then tells, and to whom, is shown in `tests/in_process/checks`.

use crate::scene::Scene;
use std::collections::BTreeMap;
use test_support::bench::Bench;
use test_support::tenant_combinations::{Combination, OWNERS, TOKENS, entra};
use verifyd::domain::Outcome;
use verifyd::domain::reason::Reason;
use verifyd_simulator::SIMULATED_SECRET;

type Connections = BTreeMap<(usize, usize, &'static str), i64>;

/// A connection for each owner, each kind of token, and each whose credential lies in its row.
async fn connections(bench: &Bench) -> Connections {
    let mut all = Connections::new();
    for (owner, whose) in OWNERS.into_iter().enumerate() {
        for credential in 0..OWNERS.len() {
            for tokens in TOKENS {
                let entra = entra(owner, tokens);
                let id = bench.connection_of(whose, &entra, "health_check", SIMULATED_SECRET);
                all.insert((owner, credential, tokens.name()), id);
            }
        }
    }
    // The ciphertexts themselves are moved, as whoever writes to the database could.
    for (&(owner, credential, tokens), &id) in &all {
        if owner != credential {
            let source = all[&(credential, credential, tokens)];
            let move_it = format!(
                "UPDATE provider_credentials c SET payload = s.payload FROM provider_credentials s
                 WHERE c.provider_connection_id = {id} AND s.provider_connection_id = {source}
                 RETURNING c.provider_connection_id"
            );
            assert_eq!(bench.numbers(&move_it).await, [id]);
        }
    }
    all
}

/// Records the run; its id.
async fn record(bench: &Bench, connections: &Connections, combination: Combination) -> i64 {
    let Combination {
        run,
        connection,
        credential,
        target,
        tokens,
    } = combination;
    let id = connections[&(connection, credential, tokens.name())];
    let (workspace, tenant) = OWNERS[run];
    let insert = format!(
        "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
         VALUES ({workspace}, {tenant}, 'provider.connection.check', 'queued',
                 jsonb_build_object('provider', 'microsoft', 'module', 'health_check',
                     'provider_connection_id', {id}::bigint,
                     'target_scope', jsonb_build_object('entra_tenant_id', '{}')),
                 now()) RETURNING id",
        entra(target, tokens)
    );
    bench.numbers(&insert).await[0]
}

/// Requests of any kind about any tenant.
fn requests(bench: &Bench) -> u64 {
    let entra = (0..OWNERS.len()).flat_map(|owner| TOKENS.map(|tokens| entra(owner, tokens)));
    entra.map(|id| bench.simulator.calls(&id).total).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_combination_of_tenants_crosses_over_on_two_workers() {
    let scene = Scene::without_connections().await;
    let connections = connections(&scene.bench).await;
    let _two = scene.two();
    let (blocked, rest): (Vec<_>, Vec<_>) = Combination::all()
        .into_iter()
        .partition(|combination| combination.expected().0 == Outcome::Blocked);
    assert_eq!((blocked.len(), rest.len()), (156, 6));
    let mut recorded = BTreeMap::new();
    for (combinations, anyone_is_asked) in [(blocked, false), (rest, true)] {
        for combination in combinations {
            let run = record(&scene.bench, &connections, combination).await;
            recorded.insert(run, combination);
        }
        let ended = scene.ends_soundly().await;
        assert_eq!(ended.len(), recorded.len());
        for run in ended {
            let combination = recorded[&run.run];
            let (outcome, reason) = combination.expected();
            let what = format!("{combination:?}: {run:?}");
            assert_eq!(run.outcome, outcome.as_str(), "{what}");
            assert_eq!(
                run.failures.first().map(String::as_str),
                reason.map(Reason::code),
                "{what}"
            );
        }
        assert_eq!(requests(&scene.bench) > 0, anyone_is_asked);
    }
    // What is kept of a tenant or a connection comes from its own runs, and of permissions from those
    // that succeeded.
    for strangers in [
        "SELECT count(*) FROM verifyd.tenant_inventory i
         JOIN operation_runs r ON r.id = i.operation_run_id
         WHERE r.outcome <> 'succeeded' OR r.tenant_id <> i.tenant_id",
        "SELECT count(*) FROM verifyd.latest_reports l
         JOIN operation_runs r ON r.id = l.operation_run_id
         JOIN provider_connections c ON c.id = l.connection_id
         WHERE (r.workspace_id, r.tenant_id) <> (c.workspace_id, c.tenant_id)",
    ] {
        assert_eq!(scene.number(strangers).await, 0, "{strangers}");
    }
    let kept = "SELECT count(*) FROM verifyd.tenant_inventory";
    assert_eq!(scene.number(kept).await, 3);
}
