//! HTTP/2: what a server refuses or loses is sent again, and many requests take several connections.

use crate::microsoft::directory::HEALTH;
use crate::microsoft::fixture::{Still, settings, target};
use crate::microsoft::tls_server::{Ending, Server};
use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use verifyd::domain::Reason;
use verifyd::domain::report::CheckStatus;
use verifyd::ports::provider::{Findings, Provider, Target};
use verifyd::provider::microsoft::MicrosoftProvider;

fn provider(server: &Server, attempts: u32) -> MicrosoftProvider {
    let base = server.directory.base();
    let mut settings = settings(base, base);
    settings.max_attempts_per_request = attempts;
    // On a busy machine a thousand requests take their time to gather.
    settings.request_timeout = Duration::from_secs(1000);
    MicrosoftProvider::with_outbound(&settings, Arc::new(Still), &server.outbound()).unwrap()
}

/// A connection of its own, with a token of its own.
fn target_of(number: u128) -> Target {
    let mut target = target("health_check");
    target.connection.client_id = Some(uuid::Uuid::from_u128(number + 1).to_string());
    target
}

fn reasons(findings: &Findings) -> Vec<Reason> {
    let failed = findings.checks.iter();
    failed
        .filter(|check| check.status == CheckStatus::Fail)
        .filter_map(|check| check.reason_code)
        .collect()
}

/// 100 connections, each checked five times at once. One attempt for each request: what is sent again
/// here is no attempt.
async fn five_hundred_checks_succeed(ending: Ending) {
    let server = Server::start(HEALTH, ending, 32).await;
    let provider = provider(&server, 1);
    let targets: Vec<Target> = (0..500).map(|n| target_of(n % 100)).collect();
    let all = join_all(targets.iter().map(|target| provider.check(target))).await;
    let failed: Vec<_> = all.iter().map(reasons).filter(|r| !r.is_empty()).collect();
    assert!(failed.is_empty(), "{} of 500: {failed:?}", failed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_end_with_goaway_cost_no_check() {
    five_hundred_checks_succeed(Ending::Graceful).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_above_the_last_id_of_goaway_cost_no_check() {
    five_hundred_checks_succeed(Ending::Harsh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_cost_no_check() {
    five_hundred_checks_succeed(Ending::Cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_streams_cost_no_check() {
    five_hundred_checks_succeed(Ending::RefusesSome).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_for_ever_is_given_up() {
    let server = Server::start(HEALTH, Ending::RefusesAll, 32).await;
    let findings = provider(&server, 3).check(&target("health_check")).await;
    assert_eq!(reasons(&findings)[0], Reason::ProviderUnreachable);
    // Three attempts, and what is sent again at once, which all of them share.
    assert_eq!(server.requests(), 3 + 10);
}

/// The server answers none of them before all are there.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_in_flight_take_several_connections() {
    let server = Server::gathering(HEALTH, Ending::Open, 32, 1024).await;
    let provider = provider(&server, 1);
    let targets: Vec<Target> = (0..1024).map(target_of).collect();
    let all = join_all(targets.iter().map(|target| provider.check(target))).await;
    assert_eq!(all.iter().flat_map(reasons).collect::<Vec<_>>(), []);
    assert_eq!(server.connections(), 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_the_start_open_one_connection() {
    let server = Server::start(HEALTH, Ending::Open, 100).await;
    let targets: Vec<Target> = (0..30).map(target_of).collect();
    // Often, as it depends on what comes first: the server's limit or the next request.
    for connections in 1..=8 {
        let provider = provider(&server, 1);
        let all = join_all(targets.iter().map(|target| provider.check(target))).await;
        assert_eq!(all.iter().flat_map(reasons).collect::<Vec<_>>(), []);
        assert_eq!(server.connections(), connections);
    }
}
