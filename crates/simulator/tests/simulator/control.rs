//! Starting and stopping, counting, and the documentation.

use super::caller::{Answer, CLIENT_ID, Caller};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use verifyd_simulator::docs::scenario_list;
use verifyd_simulator::{Scenario, Simulator, SimulatorError, SimulatorOptions};

#[tokio::test]
async fn nobody_but_this_machine_may_reach_it() {
    for address in [
        Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::from([192, 0, 2, 1]),
        "::".parse().unwrap(),
    ] {
        let options = SimulatorOptions {
            address,
            ..SimulatorOptions::default()
        };
        let error = Simulator::start(options).await.unwrap_err();
        assert!(matches!(error, SimulatorError::NotLoopback(a) if a == address));
    }
}

#[tokio::test]
async fn a_taken_port_is_an_error_and_a_left_one_is_free() {
    let first = Simulator::start(SimulatorOptions::default()).await.unwrap();
    let again = SimulatorOptions {
        port: first.address.port(),
        ..SimulatorOptions::default()
    };
    let taken = Simulator::start(again.clone()).await.unwrap_err();
    assert!(matches!(taken, SimulatorError::Listen { .. }), "{taken}");
    first.shutdown().await;
    Simulator::start(again).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_dropped_simulator_stops() {
    let caller = Caller::new().await;
    let health = caller.url("/healthz");
    assert_eq!(
        caller
            .http
            .get(&health)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
        "ok\n"
    );
    let http = caller.http.clone();
    drop(caller.simulator);
    // Bounded only against hanging.
    for _ in 0..600 {
        if http.get(&health).send().await.is_err() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("it still answers");
}

#[tokio::test]
async fn calls_are_counted_per_tenant_and_endpoint() {
    let caller = Caller::new().await;
    let tenant = Scenario::Healthy.tenant_id(0);
    let never = Scenario::Healthy.tenant_id(1);
    let token = caller.token(&tenant).await;
    caller.get(&token, "/v1.0/organization").await;
    caller.get(&token, "/v1.0/organization").await;
    let own = format!("/v1.0/servicePrincipals(appId='{CLIENT_ID}')");
    caller.get(&token, &own).await;
    caller.get(&token, "/v1.0/users").await;
    assert_eq!(caller.simulator.calls(&never).total, 0);
    let fetch = async |tenant: &str| {
        let url = caller.url(&format!("/__simulator/calls/{tenant}"));
        Answer::of(caller.http.get(url).send().await.unwrap())
            .await
            .json()
    };
    assert_eq!(fetch(&never).await, json!({"total": 0, "by_endpoint": {}}));
    let expected = json!({
        "total": 5,
        "by_endpoint": {
            "token": 1,
            "organization": 2,
            "service_principal_by_app_id": 1,
            "other": 1,
        },
    });
    assert_eq!(fetch(&tenant).await, expected);
    assert_eq!(json!(caller.simulator.calls(&tenant)), expected);
}

#[tokio::test]
async fn scenarios_are_listed_with_what_they_must_end_in() {
    let caller = Caller::new().await;
    let url = caller.url("/__simulator/scenarios");
    let listed = Answer::of(caller.http.get(url).send().await.unwrap())
        .await
        .json();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), Scenario::ALL.len());
    for (entry, scenario) in listed.iter().zip(Scenario::ALL) {
        assert_eq!(entry["name"], scenario.name());
        assert_eq!(entry["tenant_id"], *scenario.tenant_id(0));
    }
    let expectation = |name: &str| -> Value {
        let entry = listed.iter().find(|e| e["name"] == name);
        entry.unwrap()["expectation"].clone()
    };
    assert_eq!(
        expectation("throttled"),
        json!({
            "module": "health_check",
            "outcome": "failed",
            "overall": "blocked",
            "reasons": ["throttled"],
            "exhausts_limits": true,
        })
    );
}

/// `UPDATE_GENERATED=1` writes the table anew instead of comparing it.
#[test]
fn the_documentation_lists_every_scenario() {
    const BEGIN: &str = "<!-- generated: scenarios";
    const END: &str = "<!-- end of generated: scenarios -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = text.find(BEGIN).unwrap();
    let begin = begin + text[begin..].find('\n').unwrap() + 1;
    let end = text.find(END).unwrap();
    let current = format!("{}{}{}", &text[..begin], scenario_list(), &text[end..]);
    if std::env::var("UPDATE_GENERATED").is_ok_and(|v| v == "1") {
        std::fs::write(&path, current).unwrap();
    } else {
        assert!(
            text == current,
            "crates/simulator/README.md is not current: UPDATE_GENERATED=1 cargo test -p verifyd-simulator"
        );
    }
}
