//! Without a browser: status codes, headers, who sees what, what is refused.

use crate::api::scene::{ALL, Scene};
use crate::pages::person::{Person, location, tenant};
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue, SET_COOKIE};
use serde_json::Value;
use std::time::Duration;
use test_support::waiting::PATIENCE;
use test_support::world::operator;
use verifyd::domain::WorkerId;
use verifyd::domain::access::{Binding, Scope};
use verifyd::domain::budget::{BudgetKey, Throttling};
use verifyd::ports::budgets::PermitRequest;
use verifyd::ports::store::{AttemptEnd, ClaimPolicy};
use verifyd_simulator::Scenario;

/// The form that acknowledges a check.
fn acknowledgement(csrf: &str) -> [(&'static str, &str); 3] {
    [("csrf", csrf), ("check_key", "sign_in"), ("reason", "x")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_not_logged_in_is_led_to_the_login() {
    let scene = Scene::sqlite().await;
    let nobody = Person::at(&scene.base);
    for (path, next) in [
        ("/", "/login"),
        ("/runs?state=failed", "/login?next=%2Fruns%3Fstate%3Dfailed"),
        ("/runs/1", "/login?next=%2Fruns%2F1"),
        ("/connections", "/login?next=%2Fconnections"),
        ("/modules", "/login?next=%2Fmodules"),
        (
            "/modules/intune/plan",
            "/login?next=%2Fmodules%2Fintune%2Fplan",
        ),
        ("/workers", "/login?next=%2Fworkers"),
        ("/audit", "/login?next=%2Faudit"),
        ("/live", "/login?next=%2Flive"),
    ] {
        let answer = nobody.get(path).await;
        assert_eq!(answer.status(), 303, "{path}");
        assert_eq!(location(&answer), next);
    }
    for path in [
        "/connections/1/check",
        "/logout",
        "/runs/1/acknowledgements",
    ] {
        let form = [("csrf", "x"), ("check_key", "a"), ("reason", "b")];
        let answer = nobody.post(path, &form).await;
        assert_eq!(answer.status(), 303, "{path}");
        assert_eq!(location(&answer), "/login");
    }
    let page = nobody.page("/login?next=/runs/7").await;
    assert!(page.contains("value=\"/runs/7\""));
    let page = nobody.page("/login?next=//evil.example").await;
    assert!(!page.contains("evil"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_the_headers() {
    let scene = Scene::sqlite().await;
    let person = scene.operator().await;
    for path in ["/", "/login", "/nowhere", "/assets/icon.svg", "/runs/1"] {
        let answer = person.get(path).await;
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none';"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("referrer-policy"), "same-origin");
        let stored = path.starts_with("/assets");
        assert_eq!(header("cache-control") == "no-store", !stored, "{path}");
    }
    // Nothing inline that the policy would have to allow.
    let page = person.page("/").await;
    assert!(!page.contains("style=\"") && !page.contains("<script>"));
    assert!(!page.contains("onclick=") && !page.contains("<style"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logging_in_and_out() {
    let scene = Scene::sqlite().await;
    let token = scene.world.token("ops", ALL, Binding::EVERYTHING).await;
    let mut person = Person::at(&scene.base);
    for wrong in ["", "vfd_x", &format!("{token}x"), &token[..50]] {
        let answer = person.log_in(wrong).await;
        assert_eq!(answer.status(), 401);
        assert!(!answer.headers().contains_key(SET_COOKIE));
        let page = answer.text().await.unwrap();
        assert!(
            wrong.is_empty() || !page.contains(wrong),
            "a token is repeated"
        );
    }
    let blind = scene
        .world
        .token("blind", &[Scope::Run], Binding::EVERYTHING)
        .await;
    assert_eq!(person.log_in(&blind).await.status(), 401);

    let answer = person.log_in(&format!(" {token} ")).await;
    assert_eq!(answer.status(), 303);
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "{cookie}");
    person.keep_cookie(&answer);
    assert!(person.page("/").await.contains("ops"));
    // The session is not kept as it is.
    let value = person.cookie.split('=').nth(1).unwrap();
    let database = scene.world.folder.path().join("verifyd.db");
    for file in [database.clone(), database.with_extension("db-wal")] {
        let bytes = std::fs::read(file).unwrap_or_default();
        let found = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(!found(value) && !found(&token));
    }

    let csrf = person.csrf().await;
    let answer = person.post("/logout", &[("csrf", "wrong")]).await;
    assert_eq!(answer.status(), 403);
    assert!(person.page("/").await.contains("ops"));
    let answer = person.post("/logout", &[("csrf", &csrf)]).await;
    assert_eq!(answer.status(), 303);
    assert_eq!(person.get("/").await.status(), 303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_https_the_cookie_is_secure() {
    let scene = Scene::sqlite().await;
    let token = scene.world.token("ops", ALL, Binding::EVERYTHING).await;
    let person = Person::at(&scene.base);
    let mut headers = HeaderMap::new();
    headers.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    let form = [("token", token.as_str())];
    let answer = person.send(Method::POST, "/login", headers, &form).await;
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap();
    assert!(cookie.ends_with("; Secure"), "{cookie}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_ends_its_sessions() {
    let scene = Scene::sqlite().await;
    let person = scene.operator().await;
    assert_eq!(person.get("/").await.status(), 200);
    let store = &scene.world.services.store;
    let id = store.tokens().await.unwrap()[0].id;
    assert!(store.revoke_token(id, operator()).await.unwrap());
    assert_eq!(person.get("/").await.status(), 303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_of_other_sites_change_nothing() {
    let scene = Scene::sqlite().await;
    let connection = scene.add(1, Scenario::Healthy).await;
    let person = scene.operator().await;
    let csrf = person.csrf().await;
    let path = format!("/connections/{connection}/check");
    let cross = |name: &'static str, value: &str| {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    };
    for headers in [
        cross("origin", "https://evil.example"),
        cross("origin", "null"),
        cross("sec-fetch-site", "cross-site"),
        HeaderMap::new(),
    ] {
        let form = [("csrf", csrf.as_str())];
        let answer = person.send(Method::POST, &path, headers, &form).await;
        assert_eq!(answer.status(), 403);
    }
    // Of another session of the same person.
    let other = scene.operator().await.csrf().await;
    for csrf in ["", "x", &other] {
        assert_eq!(person.post(&path, &[("csrf", csrf)]).await.status(), 403);
    }
    let counts = scene.world.services.store.counts().await.unwrap();
    assert_eq!(counts.queued, 0);
    let answer = person.post(&path, &[("csrf", &csrf)]).await;
    assert_eq!(answer.status(), 303);
    let first = location(&answer).to_owned();
    assert_eq!(person.get(&first).await.status(), 200);
    // An active run is shown in place of a second one.
    let answer = person.post(&path, &[("csrf", &csrf)]).await;
    assert_eq!(location(&answer), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenant_is_not_there() {
    let scene = Scene::at_work().await;
    let mine = scene.add(1, Scenario::SecretExpired).await;
    let theirs = scene.add(2, Scenario::SecretExpired).await;
    let my_run = scene.check(mine).await;
    let their_run = scene.check(theirs).await;
    let key = scene.first_problem(their_run).await;
    scene.accept(their_run, &key, "private words").await;
    let person = scene.person(ALL, tenant(1)).await;
    let csrf = person.csrf().await;
    for path in [
        format!("/connections/{theirs}"),
        format!("/runs/{their_run}"),
        format!("/runs/{their_run}/run.json"),
        format!("/live/runs/{their_run}"),
        "/workers".to_owned(),
        "/runs/999999".to_owned(),
        "/runs/x".to_owned(),
        "/runs/-1".to_owned(),
        "/runs/99999999999999999999".to_owned(),
        "/connections/0".to_owned(),
    ] {
        assert_eq!(person.get(&path).await.status(), 404, "{path}");
    }
    let form = acknowledgement(&csrf);
    for path in [
        format!("/connections/{theirs}/check"),
        format!("/runs/{their_run}/acknowledgements"),
        format!("/runs/{their_run}/acknowledgements/1/withdraw"),
        format!("/runs/{my_run}/acknowledgements/1/withdraw"),
    ] {
        assert_eq!(person.post(&path, &form).await.status(), 404, "{path}");
    }
    for path in [
        "/",
        "/connections",
        "/runs",
        "/runs?tenant=2",
        "/connections?tenant=2",
        "/audit",
    ] {
        let page = person.page(path).await;
        assert!(!page.contains("Tenant 2"), "{path}");
        assert!(!page.contains("private words"), "{path}");
        assert!(!page.contains(&format!("/runs/{their_run}\"")), "{path}");
    }
    assert!(person.page("/connections").await.contains("Tenant 1"));
    assert_eq!(person.get(&format!("/runs/{my_run}")).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_decide_what_is_shown_and_done() {
    let scene = Scene::at_work().await;
    let connection = scene.add(1, Scenario::SecretExpired).await;
    let run = scene.check(connection).await;
    let reader = scene.person(&[Scope::Read], Binding::EVERYTHING).await;
    for path in ["/", "/connections", &format!("/runs/{run}")] {
        let page = reader.page(path).await;
        assert!(!page.contains("Check again"), "{path}");
        assert!(!page.contains("/acknowledgements\""), "{path}");
        assert!(!page.contains("/workers"), "{path}");
    }
    let csrf = reader.csrf().await;
    let form = acknowledgement(&csrf);
    for path in [
        format!("/connections/{connection}/check"),
        format!("/runs/{run}/acknowledgements"),
    ] {
        assert_eq!(reader.post(&path, &form).await.status(), 403, "{path}");
    }
    assert_eq!(reader.get("/workers").await.status(), 403);
    let operator = scene.operator().await;
    assert!(operator.page("/workers").await.contains("Alive"));
    assert!(operator.page("/").await.contains("Check again"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_understood_is_refused_with_a_page() {
    let scene = Scene::sqlite().await;
    let connection = scene.add(1, Scenario::Healthy).await;
    let person = scene.operator().await;
    for (path, words) in [
        ("/runs?before=x", "whole number"),
        ("/connections?after=1.5", "first page"),
        ("/connections?sort=expiry&after=1", "first page"),
        ("/connections?after=never_1", "first page"),
        ("/runs?tenant=a'b", "whole number"),
        ("/runs?connection=007", "without leading zeros"),
        ("/runs?tenant=%2B1", "without leading zeros"),
        ("/connections?tenant=+1", "without leading zeros"),
        ("/connections?after=01", "first page"),
        ("/connections?after=1+", "first page"),
        ("/connections?sort=expiry&after=never_+1", "first page"),
        ("/audit?before=1_000", "without leading zeros"),
        ("/?period=1h&period=1h", "more than once"),
        ("/runs?state=a&state=b", "more than once"),
        ("/connections?name=a&name=b", "more than once"),
        (
            "/modules/health_check/plan?after=1&after=1",
            "more than once",
        ),
        ("/login?next=/&next=/", "more than once"),
    ] {
        let answer = person.get(path).await;
        assert_eq!(answer.status(), 422, "{path}");
        assert!(answer.text().await.unwrap().contains(words), "{path}");
    }
    // Unknown words narrow nothing.
    assert!(
        person
            .page("/connections?state=%3Cb%3E")
            .await
            .contains("Tenant 1")
    );
    let csrf = person.csrf().await;
    let run = scene.submit(connection).await;
    let form = acknowledgement(&csrf);
    let path = format!("/runs/{run}/acknowledgements");
    let answer = person.post(&path, &form).await;
    assert_eq!(answer.status(), 422);
    assert!(answer.text().await.unwrap().contains("completed"));
    let twice = [&form[..], &[("reason", "x")]].concat();
    let check = format!("/connections/{connection}/check");
    let unreadable: [(&str, &[(&str, &str)]); 6] = [
        (&path, &twice),
        (&path, &[("csrf", &csrf), ("reason", "x")]),
        (&path, &[("csrf", &csrf), ("check_key", "x")]),
        (&check, &[("csrf", &csrf), ("csrf", &csrf)]),
        ("/login", &[("next", "/")]),
        ("/logout", &[("csrf", &csrf), ("csrf", &csrf)]),
    ];
    for (path, form) in unreadable {
        let answer = person.post(path, form).await;
        assert_eq!(answer.status(), 422, "{path}");
        let page = answer.text().await.unwrap();
        assert!(page.contains("The form lacks a field"), "{path}: {page}");
    }
    let other = person.request(Method::POST, "/login");
    let other = other.header("content-type", "text/plain").body("token=x");
    let answer = other.send().await.unwrap();
    assert_eq!(answer.status(), 422);
    let page = answer.text().await.unwrap();
    assert!(page.contains("The form lacks a field"), "{page}");
    for path in [
        "/runs/%ff",
        "/modules/%ff/plan",
        "/assets/%ff",
        &format!("/connections/0{connection}"),
        &format!("/runs/%2B{run}"),
        &format!("/provider-connections/0{connection}"),
    ] {
        let answer = person.get(path).await;
        assert_eq!(answer.status(), 404, "{path}");
        let page = answer.text().await.unwrap();
        assert!(page.contains("There is nothing here"), "{path}: {page}");
    }
    let page = person.page("/connections?name=nobody").await;
    assert!(page.contains("No connection is like this"));
    // Links of reports to the surrounding application lead to the page of the same thing.
    let answer = person
        .get(&format!("/provider-connections/{connection}"))
        .await;
    assert_eq!(location(&answer), format!("/connections/{connection}"));
    let answer = person.get(&format!("/operation-runs/{run}")).await;
    assert_eq!(location(&answer), format!("/runs/{run}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_paged_and_keep_their_filter() {
    let scene = Scene::sqlite().await;
    let connection = scene.add(1, Scenario::Healthy).await;
    for _ in 0..53 {
        scene.world.record(connection, |_| {}).await;
    }
    let person = scene.operator().await;
    let page = person.page("/runs?state=queued").await;
    assert_eq!(page.matches("data-label=\"Run\"").count(), 50);
    let (_, rest) = page
        .split_once("href=\"/runs?state=queued&#38;before=")
        .unwrap();
    let before = rest.split('"').next().unwrap();
    let page = person
        .page(&format!("/runs?state=queued&before={before}"))
        .await;
    assert_eq!(page.matches("data-label=\"Run\"").count(), 3);
    assert!(page.contains("href=\"/runs?state=queued\""));
    assert!(!page.contains("rel=\"next\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_from_elsewhere_brings_its_cookie_in_a_second_step() {
    let scene = Scene::sqlite().await;
    let nobody = Person::at(&scene.base);
    let followed = |site: &'static str| {
        HeaderMap::from_iter([
            (
                "sec-fetch-site".parse().unwrap(),
                HeaderValue::from_static(site),
            ),
            (
                "sec-fetch-mode".parse().unwrap(),
                HeaderValue::from_static("navigate"),
            ),
        ])
    };
    let answer = nobody
        .send(Method::GET, "/runs/7?a=%22b", followed("cross-site"), &[])
        .await;
    assert_eq!(answer.status(), 200);
    let page = answer.text().await.unwrap();
    assert!(page.contains("content=\"0;url=/runs/7?a=%22b\""), "{page}");
    let answer = nobody
        .send(Method::GET, "/runs/7", followed("same-origin"), &[])
        .await;
    assert_eq!(answer.status(), 303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_database_there_is_a_page_that_says_so() {
    let scene = Scene::sqlite().await;
    let person = scene.operator().await;
    scene.world.services.store.close().await;
    for path in ["/", "/runs/1", "/login?next=/", "/live"] {
        let answer = person.get(path).await;
        assert_eq!(answer.status(), 503, "{path}");
        assert!(answer.headers().contains_key("retry-after"));
        assert!(answer.headers().contains_key("content-security-policy"));
        let page = answer.text().await.unwrap();
        assert!(page.contains("The database does not answer"), "{page}");
        assert!(!page.contains("connections are closed"), "{page}");
    }
}

/// Where no constraint refuses it, as on another application's table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_nobody_can_work_on_is_shown_and_breaks_no_list() {
    let scene = Scene::at_work().await;
    let connection = scene.add(1, Scenario::Healthy).await;
    let run = scene.check(connection).await;
    scene
        .world
        .sql(
            "PRAGMA ignore_check_constraints = ON; \
             INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
             VALUES (1, 1, 'provider.connection.check', '<b>pending</b>', '{}')",
        )
        .await;
    let person = scene.operator().await;
    let workers = person.page("/workers").await;
    assert!(
        workers.contains("operation_runs.status of run 2"),
        "{workers}"
    );
    assert!(workers.contains("&lt;b&gt;pending") || workers.contains("&#60;b&#62;pending"));
    let runs = person.page("/runs").await;
    assert!(runs.contains(&format!("/runs/{run}")), "{runs}");
    scene
        .world
        .sql(
            "PRAGMA ignore_check_constraints = ON; \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 21) \
             INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) \
             SELECT 1, 1, 'provider.connection.check', 'pending', '{}' FROM n",
        )
        .await;
    let workers = person.page("/workers").await;
    assert!(workers.contains("and 2 more runs</li>"), "{workers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_waits_for_a_budget_says_so_everywhere() {
    let scene = Scene::sqlite().await;
    let store = &scene.world.services.store;
    let connection = scene.add(1, Scenario::Healthy).await;
    let run = scene.world.record(connection, |_| {}).await;
    let policy = ClaimPolicy {
        max_attempts: 3,
        lease: PATIENCE,
        isolated: false,
    };
    let release = async |run, end| {
        let claimed = store.claim(run, &WorkerId("w".into()), &policy).await;
        let claim = claimed.unwrap().claimed().unwrap();
        let hour = Some(Duration::from_secs(3_600));
        let released = store.release(&claim, end, hour, None, false);
        assert!(released.await.unwrap());
    };
    release(run, AttemptEnd::Throttled).await;

    let token = scene.master().await;
    let person = scene.operator().await;
    let path = format!("/v1/runs/{run}");
    let waiting = scene.get(&token, &path).await.body["waiting"].clone();
    assert!(waiting["until"].is_string(), "{waiting}");
    assert_eq!(waiting["cause"], "throttled");
    assert_eq!(waiting["client_id"], Value::Null);
    let page = person.page(&format!("/runs/{run}")).await;
    assert!(page.contains("Waiting because the provider throttles: about "));
    let list = person.page("/runs").await;
    assert!(list.contains("Next attempt at "), "{list}");
    let workers = person.page("/workers").await;
    assert!(!workers.contains("Throttled applications"), "{workers}");
    for page in [person.page("/").await, workers] {
        for shown in [
            "<dt>Waiting for a worker</dt><dd>0</dd>",
            "<dt>Not due yet</dt><dd>1</dd>",
        ] {
            assert!(page.contains(shown), "{page}");
        }
    }

    let row = scene.world.row(connection).await;
    let client = row.client_id.unwrap();
    let limited = |client: &str| BudgetKey {
        cloud: row.cloud.clone().unwrap(),
        client_id: client.parse().unwrap(),
    };
    let throttling = Throttling {
        unpermitted_per_minute: 6_000,
        pause: Duration::ZERO,
    };
    let request = PermitRequest {
        wanted: 0,
        throttling: Some(throttling),
    };
    store.permits(&limited(&client), &request).await.unwrap();
    let shown = scene.get(&token, &path).await.body;
    assert_eq!(shown["waiting"]["client_id"], client);
    assert_eq!(shown["waiting"]["cloud"], "simulated");
    let words = format!("Waiting because the provider throttles the application {client}");
    let verdict = shown["verdict"].as_str().unwrap();
    assert!(verdict.starts_with(&words), "{verdict}");
    let page = person.page(&format!("/runs/{run}")).await;
    assert!(page.contains(&words), "{page}");
    let arguments = ["runs", "show", &run.to_string()].map(str::to_owned);
    let terminal = scene.cli(arguments.into()).await;
    let terminal = String::from_utf8(terminal.stdout).unwrap();
    let in_one_line = terminal.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(in_one_line.contains(&words), "{terminal}");
    let workers = person.page("/workers").await;
    assert!(workers.contains("Throttled applications") && workers.contains(&client));

    // After an error it waits, too, and for no provider.
    let failed = scene.world.record(connection, |_| {}).await;
    release(failed, AttemptEnd::Error).await;
    let waiting = scene.get(&token, &format!("/v1/runs/{failed}")).await;
    let waiting = &waiting.body["waiting"];
    assert!(waiting["until"].is_string(), "{waiting}");
    assert_eq!(waiting["cause"], "failed");
    assert_eq!(waiting["client_id"], Value::Null);
    let page = person.page(&format!("/runs/{failed}")).await;
    assert!(page.contains("Next attempt at "), "{page}");

    // The connection of another tenant says nothing of its application.
    scene
        .world
        .sql("PRAGMA foreign_keys = OFF; UPDATE provider_connections SET tenant_id = 2")
        .await;
    let waiting = scene.get(&token, &path).await.body["waiting"].clone();
    assert!(waiting["until"].is_string(), "{waiting}");
    assert_eq!(waiting["client_id"], Value::Null);
}
