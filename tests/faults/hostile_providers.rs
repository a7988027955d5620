//! Providers that are hostile on the wire, all at once, beside one that is well and some of the simulator's. What each of them does
//! to a single check is shown in `tests/in_process/checks`; here two workers of the real binary have them all.

use crate::scene::{Member, Scene, tell};
use std::collections::BTreeMap;
use test_support::hostile_server::tls::{certificate, serve};
use test_support::hostile_server::{At, Hostile, HostileServer, answer, hostilities};
use test_support::memory::peak_kib;
use test_support::postgres::TestDatabase;
use verifyd::domain::reason::Reason;
use verifyd_simulator::{Scenario, SimulatorOptions};

/// Two runs of each are in flight at the same time, each with three answers of at most one MiB: about half of this.
/// Some of the answers have no end.
const MIB: u64 = 512;

/// A busy machine must not make a closed connection look like one that is silent.
const TIMES: [(&str, &str); 3] = [
    ("VERIFYD__MICROSOFT__REQUEST_TIMEOUT", "25s"),
    ("VERIFYD__WORKER__RUN_DEADLINE", "90s"),
    ("VERIFYD__WORKER__TOTAL_DEADLINE", "120s"),
];

/// A provider of its own, and the reason in which its checks end.
struct Provider {
    what: String,
    url: String,
    reason: Reason,
}

/// Every provider, and what keeps some of them alive.
async fn providers() -> (Vec<Provider>, Vec<HostileServer>) {
    let mut all = hostilities();
    let error = br#"{"error": {"code": "TooManyRequests", "message": "slow down"}}"#;
    for (what, status, headers, body, reason) in [
        (
            "a storm of 429",
            "429 Too Many Requests",
            "",
            &error[..],
            Reason::Throttled,
        ),
        (
            "a storm of 429 that says how long",
            "429 Too Many Requests",
            "retry-after: 2\r\n",
            error,
            Reason::Throttled,
        ),
        (
            "a storm of 503",
            "503 Service Unavailable",
            "",
            b"",
            Reason::ProviderUnavailable,
        ),
    ] {
        let hostile = Hostile::Bytes(answer(status, headers, body));
        all.push((what, vec![At::Graph], hostile, reason));
    }
    let (mut providers, mut servers) = (Vec::new(), Vec::new());
    for (name, places, what, reason) in all {
        for at in places {
            let server = HostileServer::start(at, what.clone(), &tenant(providers.len())).await;
            providers.push(Provider {
                what: format!("{name} ({at:?})"),
                url: server.url(),
                reason,
            });
            servers.push(server);
        }
    }
    let (unsigned, key) = certificate(None, "localhost", false);
    for (what, url, reason) in [
        (
            "a certificate that nobody has signed",
            serve(unsigned, &key).0,
            Reason::TlsFailed,
        ),
        (
            "a name that does not exist",
            "https://login.nowhere.invalid".to_owned(),
            Reason::ProviderUnreachable,
        ),
    ] {
        providers.push(Provider {
            what: what.to_owned(),
            url,
            reason,
        });
    }
    (providers, servers)
}

fn tenant(number: usize) -> String {
    Scenario::Healthy.tenant_id(u32::try_from(number).unwrap() + 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_provider_is_hostile_at_once() {
    let mut scene = Scene::empty(TestDatabase::create().await, SimulatorOptions::default()).await;
    // What takes many whole answers to show is the simulator's.
    let simulated = BTreeMap::from([
        (scene.add(Scenario::Healthy, 1), None),
        (
            scene.add(Scenario::ResponseTooLargePages, 2),
            Some(Reason::ResponseTooLarge),
        ),
        (scene.add(Scenario::PagingLoop, 3), Some(Reason::PagingLoop)),
        (
            scene.add(Scenario::ResponseTooLarge, 4),
            Some(Reason::ResponseTooLarge),
        ),
    ]);
    for (key, value) in TIMES {
        scene.bench.set(key, value);
    }
    let (providers, servers) = providers().await;
    for (number, provider) in providers.iter().enumerate() {
        for (part, value) in [
            ("LOGIN", provider.url.as_str()),
            ("GRAPH", &provider.url),
            ("PORTAL", "https://entra.microsoft.com"),
        ] {
            let key = format!("VERIFYD__MICROSOFT__CLOUDS__HOSTILE_{number}__{part}");
            scene.bench.set(&key, value);
        }
    }
    let mut hostile = BTreeMap::new();
    for (number, provider) in providers.iter().enumerate() {
        let entra = tenant(number);
        let owner = i64::try_from(number).unwrap() + 10;
        let id = scene.bench.connection(owner, &entra, "health_check");
        let member = Member {
            entra_tenant_id: entra,
            outcome: "failed",
        };
        scene.members.insert(id, member);
        let cloud = format!(
            "UPDATE provider_connections SET cloud = 'hostile_{number}' WHERE id = {id} RETURNING id"
        );
        scene.number(&cloud).await;
        hostile.insert(id, provider);
    }

    let workers = scene.two();
    scene.record(2).await;
    let ended = scene.ends_as_meant().await;
    assert_eq!(ended.len(), 2 * (providers.len() + simulated.len()));
    let mut problems = Vec::new();
    for run in &ended {
        let (what, reason) = match hostile.get(&run.connection) {
            Some(provider) => (provider.what.as_str(), Some(provider.reason)),
            None => ("simulated", simulated[&run.connection]),
        };
        let only = run
            .failures
            .iter()
            .all(|code| Some(code.as_str()) == reason.map(Reason::code));
        if run.failures.is_empty() != reason.is_none() || !only {
            problems.push(format!("{what}: {:?}, wanted {reason:?}", run.failures));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    for server in &servers {
        let asked = server.hostile.load(std::sync::atomic::Ordering::Relaxed);
        assert!(asked > 0, "{}", server.url());
    }
    // Each attempt within the deadline of a run.
    let late = "SELECT count(*) FROM verifyd.run_attempts
                WHERE ended_at > claimed_at + interval '90 seconds'";
    assert_eq!(scene.number(late).await, 0);
    let printed = scene.bench.printed.lock().unwrap().clone();
    for word in ["169.254", "opaque"] {
        assert!(!printed.contains(word), "{word} was printed");
    }
    let workers = [workers.0.pid(), workers.1.pid()];
    let peaks = workers.map(peak_kib);
    if let Some(most) = peaks.into_iter().flatten().max() {
        let most = most / 1024;
        tell(&format!(
            "hostile providers: a worker took {most} MiB at most"
        ));
        assert!(most < MIB, "{most} MiB");
    }
}
