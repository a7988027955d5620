//! What each route answers.

use crate::api::scene::{Scene, operations};
use reqwest::Method;
use serde_json::{Value, json};
use verifyd::domain::{AcknowledgementId, RunId, SessionId};

async fn every_route(scene: &Scene) {
    scene.work();
    let token = &scene.master().await;
    let healthy = scene.healthy(1).await;
    let lacking = scene.lacking(2).await;

    // A check, its run, its report.
    let first = scene.checked(token, healthy).await;
    let run = scene.get(token, &format!("/v1/runs/{first}")).await;
    assert_eq!(run.status, 200);
    assert_eq!(run.body["outcome"], "succeeded");
    assert_eq!(run.body["report"]["report"]["overall"], "ready");
    assert_eq!(run.body["diff"]["state"], "first");
    assert_eq!(
        run.body["timeline"]["attempts"][0]["end_reason"],
        "completed"
    );
    let report = scene.get(token, &format!("/v1/runs/{first}/report")).await;
    let stored = scene.world.run(RunId(first)).await;
    assert_eq!(
        Some(&report.body),
        stored.report(),
        "exactly the stored document"
    );
    let tag = report.header("etag").to_owned();
    let path = format!("/v1/runs/{first}/report");
    let same = [("if-none-match", tag.as_str())];
    let again = scene.call(Method::GET, &path, token, None, &same).await;
    assert_eq!((again.status, again.body), (304, Value::Null));

    // Acknowledgements.
    let broken = scene.checked(token, lacking).await;
    let run = scene.get(token, &format!("/v1/runs/{broken}")).await;
    let problem = &run.body["report"]["report"]["problems"][0];
    let key = problem["key"].as_str().unwrap().to_owned();
    let path = format!("/v1/runs/{broken}/acknowledgements");
    let body = json!({ "check_key": key, "reason": "known", "acknowledged_by": "Ada",
                       "expires_at": "2999-01-01T00:00:00Z" });
    let made = scene.post(token, &path, body.clone()).await;
    assert_eq!((made.status, &made.body["created"]), (201, &json!(true)));
    let location = made.header("location").to_owned();
    let second = scene.post(token, &path, body).await;
    assert_eq!(
        (second.status, &second.body["created"]),
        (200, &json!(false))
    );
    assert_eq!(second.header("location"), location);
    let read = scene.get(token, &location).await;
    assert_eq!(read.body["acknowledged_by"], "Ada");
    assert_eq!(read.body, made.body["acknowledgement"]);
    // The next run inherits it, and changes nothing.
    let next = scene.checked(token, lacking).await;
    let run = scene.get(token, &format!("/v1/runs/{next}")).await;
    let inherited = &run.body["report"]["report"]["problems"][0]["acknowledgement"];
    assert_eq!(inherited["inherited"], true);
    let diff = scene.get(token, &format!("/v1/runs/{next}/diff")).await;
    assert_eq!(diff.body["state"], "compared");
    assert_eq!(diff.body["unchanged"], true);
    assert_eq!(diff.body, run.body["diff"]);
    let path = format!("/v1/acknowledgements?run={broken}&active=true");
    let listed = scene.get(token, &path).await;
    assert_eq!(listed.body["items"], json!([read.body]));
    let path = format!("{location}/withdrawal");
    let withdrawn = scene.call(Method::POST, &path, token, None, &[]).await;
    assert_eq!(withdrawn.body["standing"], "withdrawn");
    assert_eq!(withdrawn.body["withdrawn_by"], "token a test");
    let body = json!({ "withdrawn_by": "Bob" });
    let again = scene.post(token, &path, body).await;
    assert_eq!(again.body, withdrawn.body);
    let active = scene.get(token, "/v1/acknowledgements?active=true").await;
    assert_eq!(active.body["items"], json!([]));

    // Connections.
    let path = format!("/v1/connections/{lacking}");
    let state = scene.get(token, &path).await;
    assert_eq!(state.body["latest_report"]["operation_run_id"], next);
    assert_eq!(state.body["active_run_id"], Value::Null);
    let path = "/v1/connections?overall=needs_attention";
    let some = scene.get(token, path).await;
    assert_eq!(some.body["items"], json!([state.body]));
    let path = format!("/v1/runs?connection={lacking}");
    let runs = scene.get(token, &path).await;
    assert_eq!(runs.ids("operation_run_id"), [next, broken]);
    assert_eq!(runs.items()[0]["overall"], "needs_attention");

    let path = "/v1/audit?action=acknowledgement.withdrawn";
    let trail = scene.get(token, path).await;
    assert_eq!(trail.items().len(), 1);
    assert_eq!(trail.items()[0]["actor"], "a test");

    let workers = scene.get(token, "/v1/workers").await;
    assert_eq!(workers.items().len(), 1);
    let document = scene.get("", "/v1/openapi.json").await;
    assert_eq!(document.body, *crate::api::scene::DOCUMENT);
    assert_eq!(document.body["openapi"], "3.1.0");
}

/// All but the onboarding session, which the embedded default's tables get from nobody.
fn every_operation_was_used(scene: &Scene, but: &[&str]) {
    let seen = scene.seen.lock().unwrap();
    for (method, path, _) in operations() {
        let name = method.as_str().to_ascii_lowercase();
        let mut seen = seen.iter();
        let used = seen.any(|(m, p, s)| *m == name && *p == path && *s < 300);
        let excepted = but.contains(&path.as_str());
        assert!(used || excepted, "{method} {path} was never used");
    }
}

const ONBOARDING: &str = "/v1/onboarding-sessions/{onboarding_session_id}";

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_on_postgresql() {
    let scene = Scene::postgres().await;
    every_route(&scene).await;
    onboarding(&scene).await;
    every_operation_was_used(&scene, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_on_sqlite() {
    let scene = Scene::sqlite().await;
    every_route(&scene).await;
    every_operation_was_used(&scene, &[ONBOARDING]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_kept_beside_what_the_caller_says() {
    for scene in [Scene::postgres().await, Scene::sqlite().await] {
        scene.work();
        let token = &scene.master().await;
        let connection = scene.lacking(1).await;
        let run = scene.checked(token, connection).await;
        let path = format!("/v1/runs/{run}");
        let shown = scene.get(token, &path).await;
        let problem = |body: &Value| body["report"]["report"]["problems"][0].clone();
        let body = json!({
            "check_key": problem(&shown.body)["key"],
            "reason": "known",
            "acknowledged_by": "the board",
        });
        let made = scene
            .post(token, &format!("{path}/acknowledgements"), body)
            .await;
        let made = &made.body["acknowledgement"];
        let actor = json!({ "surface": "api", "token_id": 1, "name": "a test" });
        assert_eq!(made["acknowledged_by"], "the board");
        assert_eq!(made["acknowledged_through"], actor);
        assert_eq!(made["withdrawn_through"], Value::Null);
        let id = made["id"].as_i64().unwrap();
        let read = scene
            .get(token, &format!("/v1/acknowledgements/{id}"))
            .await;
        let listed = scene.get(token, "/v1/acknowledgements").await;
        let shown = scene.get(token, &path).await;
        assert_eq!(&read.body, made);
        assert_eq!(&listed.body["items"][0], made);
        assert_eq!(&problem(&shown.body)["acknowledgement"], made);
        // Another token withdraws, in the name of somebody else.
        let other = &scene.master().await;
        let withdrawal = format!("/v1/acknowledgements/{id}/withdrawal");
        let body = json!({ "withdrawn_by": "the board" });
        let withdrawn = scene.post(other, &withdrawal, body).await.body;
        let second = json!({ "surface": "api", "token_id": 2, "name": "a test" });
        assert_eq!(withdrawn["acknowledged_through"], actor);
        assert_eq!(withdrawn["withdrawn_through"], second);
        let store = &scene.world.services.store;
        let kept = store.acknowledgement(AcknowledgementId(id)).await.unwrap();
        let now = scene.world.services.clock.now();
        let view = verifyd::view::AcknowledgementView::of(&kept.unwrap(), RunId(run), now);
        let said = view.summary();
        assert!(
            said.starts_with("acknowledged by “the board” (token a test) on "),
            "{said}"
        );
        assert!(
            said.contains("withdrawn by “the board” (token a test) on "),
            "{said}"
        );
    }
}

/// A check for a session moves its pointer; the session shows the run.
async fn onboarding(scene: &Scene) {
    let token = &scene.master().await;
    let connection = scene.healthy(7).await;
    let session = scene.session("1", "7", "'{\"step\": 3}'").await;
    let path = format!("/v1/onboarding-sessions/{session}");
    let empty = scene.get(token, &path).await;
    assert_eq!(empty.body["run"], Value::Null);
    let body = json!({ "onboarding_session_id": session });
    let started = scene.start(token, connection, body.clone()).await;
    assert_eq!(started.status, 201, "{started:?}");
    let run = started.body["run"]["operation_run_id"].as_i64().unwrap();
    scene.world.completed(RunId(run)).await;
    let shown = scene.get(token, &path).await;
    assert_eq!(shown.body["operation_run_id"], run);
    assert_eq!(shown.body["run"]["outcome"], "succeeded");
    let store = &scene.world.services.store;
    let kept = store.onboarding_session(SessionId(session)).await.unwrap();
    assert_eq!(kept.unwrap().state.value()["step"], 3);
    // One of another tenant is none of this connection's.
    let other = scene.healthy(8).await;
    let refused = scene.start(token, other, body).await;
    assert_eq!(refused.status, 422);
    let missing = json!({ "onboarding_session_id": 999 });
    let missing = scene.start(token, other, missing).await;
    assert_eq!(missing.refusal(), (404, "not-found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_not_completed_has_no_report_yet() {
    let scene = Scene::postgres().await;
    let token = &scene.master().await;
    let connection = scene.healthy(1).await;
    let path = format!("/v1/connections/{connection}/checks");
    let body = json!({ "module": "health_check" });
    let started = scene.start(token, connection, body).await;
    let run = started.header("location").to_owned();
    let again = scene.call(Method::POST, &path, token, None, &[]).await;
    assert_eq!((again.status, &again.body["created"]), (200, &json!(false)));
    assert_eq!(again.header("location"), run, "the active run");
    let path = format!("/v1/connections/{connection}");
    let state = scene.get(token, &path).await;
    let started = &started.body["run"]["operation_run_id"];
    assert_eq!(state.body["active_run_id"], *started);
    let shown = scene.get(token, &run).await;
    assert_eq!(shown.body["status"], "queued");
    assert_eq!(shown.body["report"]["state"], "pending");
    let report = scene.get(token, &format!("{run}/report")).await;
    assert_eq!(report.refusal(), (404, "no-report"));
    assert_eq!(shown.body["diff"]["state"], "no_report");
    let diff = scene.get(token, &format!("{run}/diff")).await;
    assert_eq!(diff.refusal(), (404, "no-report"));
    assert_eq!(diff.body["detail"], report.body["detail"]);
    let body = json!({ "check_key": "provider.identity", "reason": "x" });
    let path = format!("{run}/acknowledgements");
    let refused = scene.post(token, &path, body).await;
    assert_eq!(refused.refusal(), (409, "not-acknowledgeable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_wrote_is_shown_as_what_it_is() {
    let scene = Scene::postgres().await;
    let token = &scene.master().await;
    for (report, status, state) in [
        ("null", 404, "missing"),
        ("{}", 409, "unreadable"),
        ("{\"schema_version\": \"1.4.0\"}", 409, "other_version"),
        ("\"<script>alert(1)</script>\"", 409, "unreadable"),
    ] {
        let run = scene
            .sql(&format!(
                "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome, \
                 context, completed_at) VALUES (1, 1, 'provider.connection.check', 'completed', \
                 'failed', '{{\"verification_report\": {report}}}', now()) RETURNING id"
            ))
            .await;
        let shown = scene.get(token, &format!("/v1/runs/{run}")).await;
        assert_eq!(shown.body["report"]["state"], state, "{report}");
        let refused = scene.get(token, &format!("/v1/runs/{run}/report")).await;
        assert_eq!(refused.status, status, "{report}");
    }
    let listed = scene.get(token, "/v1/runs").await;
    assert_eq!(listed.items().len(), 4);
}
