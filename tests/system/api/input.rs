//! Input that is not valid: named, all at once, never obeyed in part.

use crate::api::scene::{DOCUMENT, Scene, operations, with_id};
use reqwest::Method;
use serde_json::{Value, json};
use verifyd::domain::ALLOWED_ID;

fn named(body: &Value) -> Vec<(&str, &str)> {
    let errors = body["errors"].as_array().unwrap();
    let named = errors.iter().map(|e| (&e["field"], &e["allowed"]));
    named
        .map(|(field, allowed)| {
            (
                field.as_str().unwrap(),
                allowed.as_str().unwrap_or_default(),
            )
        })
        .collect()
}

fn fields(body: &Value) -> Vec<&str> {
    named(body).into_iter().map(|(field, _)| field).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_read_strictly() {
    let scene = Scene::sqlite().await;
    let token = &scene.master().await;
    let wrong = scene
        .get(
            token,
            "/v1/runs?status=done&limit=201&before=-1&colour=red&tenant=1&tenant=2",
        )
        .await;
    assert_eq!(wrong.refusal(), (400, "invalid-query"));
    assert_eq!(
        named(&wrong.body),
        [
            ("tenant", "once"),
            ("status", "queued, running, completed"),
            ("before", ALLOWED_ID),
            ("limit", "a whole number from 1 to 200"),
            (
                "colour",
                "status, outcome, connection, tenant, before, limit"
            ),
        ]
    );
    // No route takes a parameter that it does not know.
    for (method, template, _) in operations() {
        let path = format!("{}?surprise=1", with_id(&template, "1"));
        let answer = scene.call(method.clone(), &path, token, None, &[]).await;
        assert_eq!(answer.status, 400, "{method} {path}");
        assert_eq!(named(&answer.body)[0].0, "surprise");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_a_query_has_one_spelling() {
    let scene = Scene::sqlite().await;
    let token = &scene.master().await;
    let mut tried = 0;
    for (method, template, _) in operations() {
        let operation = &DOCUMENT["paths"][&template][method.as_str().to_ascii_lowercase()];
        let declared = operation["parameters"].as_array().into_iter().flatten();
        let is_id = |p: &&Value| p["in"] == "query" && p["schema"]["minimum"] == 1;
        for parameter in declared.filter(is_id) {
            let name = parameter["name"].as_str().unwrap();
            if name == "limit" {
                continue;
            }
            for spelling in [
                "01", "007", "%2B7", "+7", "7+", "%097", "1_000", "7.0", "-7",
            ] {
                tried += 1;
                let path = format!("{}?{name}={spelling}", with_id(&template, "1"));
                let refused = scene.call(method.clone(), &path, token, None, &[]).await;
                assert_eq!(refused.refusal(), (400, "invalid-query"), "{method} {path}");
                assert_eq!(
                    named(&refused.body),
                    [(name, ALLOWED_ID)],
                    "{method} {path}"
                );
            }
        }
    }
    assert!(tried > 50, "only {tried} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_read_strictly() {
    let scene = Scene::sqlite().await;
    let token = &scene.master().await;
    let connection = scene.healthy(1).await;
    let path = &format!("/v1/connections/{connection}/checks");
    let send = async |content_type: Option<&str>, body: &str| {
        let mut request = scene.request(Method::POST, path).bearer_auth(token);
        if let Some(kind) = content_type {
            request = request.header("content-type", kind);
        }
        scene.send(request.body(body.to_owned())).await
    };
    let json_type = Some("application/json; charset=utf-8");
    for (kind, body, status, problem) in [
        (json_type, "{", 400, "malformed-body"),
        (json_type, "[]", 400, "malformed-body"),
        (json_type, "null", 400, "malformed-body"),
        (json_type, "7", 400, "malformed-body"),
        (json_type, "\u{feff}{}", 400, "malformed-body"),
        (Some("text/plain"), "{}", 415, "media-type"),
        (None, "{}", 415, "media-type"),
        (
            Some("application/json; charset=utf-16"),
            "{}",
            415,
            "media-type",
        ),
        (
            json_type,
            r#"{"module": 7, "colour": 1}"#,
            422,
            "invalid-body",
        ),
        (json_type, r#"{"module": "nonsense"}"#, 422, "invalid-body"),
        (
            json_type,
            r#"{"onboarding_session_id": "1"}"#,
            422,
            "invalid-body",
        ),
    ] {
        let answer = send(kind, body).await;
        assert_eq!(answer.refusal(), (status, problem), "{body}");
        assert!(!answer.body.to_string().contains("feff"));
    }
    let utf16: String = "{}"
        .chars()
        .map(|character| format!("{character}\0"))
        .collect();
    for body in ["\u{feff}{}", &utf16] {
        let answer = send(json_type, body).await;
        let detail = "It must be UTF-8 without a byte order mark.";
        assert_eq!(answer.body["detail"], detail, "{body:?}");
    }
    let cut_off = send(json_type, "{").await;
    assert_eq!(cut_off.body["detail"], "Line 1, column 1.");
    let utf16 = send(Some("application/json; charset=\"utf-16\""), "{}").await;
    let detail = "The body must be UTF-8; the charset of its Content-Type is \"utf-16\".";
    assert_eq!(utf16.body["detail"], detail);
    let wrong = send(json_type, "{\"module\": 7, \"colour\": 1}").await;
    assert_eq!(fields(&wrong.body), ["module", "colour"]);
    let twice = r#"{"module": "health_check", "module": "health_check"}"#;
    let twice = send(json_type, twice).await;
    assert_eq!(twice.refusal(), (422, "invalid-body"));
    assert_eq!(named(&twice.body), [("module", "once")]);
    let compressed = [("content-encoding", "gzip")];
    let body = Some(json!({}));
    let compressed = scene
        .call(Method::POST, path, token, body, &compressed)
        .await;
    assert_eq!(compressed.refusal(), (415, "media-type"));
    let deep = format!("{{\"module\": {}", "[".repeat(60_000));
    assert_eq!(send(json_type, &deep).await.status, 400);
    let large = format!("{{\"module\": \"{}\"}}", "x".repeat(70_000));
    let large = send(json_type, &large).await;
    assert_eq!(large.refusal(), (413, "too-large"));
    // Nothing of all this was done.
    let runs = scene.get(token, "/v1/runs").await;
    assert_eq!(runs.body["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_two_tokens_is_refused() {
    let scene = Scene::sqlite().await;
    let token = &scene.master().await;
    for second in [token.as_str(), "vfd_x"] {
        let second = format!("Bearer {second}");
        let headers = [("authorization", second.as_str())];
        let answer = scene
            .call(Method::GET, "/v1/runs", token, None, &headers)
            .await;
        assert_eq!(answer.refusal(), (400, "invalid-header"));
        assert_eq!(named(&answer.body), [("Authorization", "once")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_name_what_is_missing() {
    let scene = Scene::postgres().await;
    scene.work();
    let token = &scene.master().await;
    let run = scene.checked(token, scene.lacking(1).await).await;
    let path = &format!("/v1/runs/{run}/acknowledgements");
    let send = async |body: Value| scene.post(token, path, body).await;
    let empty = send(json!({})).await;
    assert_eq!(empty.status, 422);
    assert_eq!(fields(&empty.body), ["check_key", "reason"]);
    let line = "a text of 1 to 200 characters, none of them a control one";
    let future = "a time in the future, up to the year 9999";
    let checks = "checks that are fail or warn: ";
    for (field, value, allowed) in [
        ("check_key", "no.such", checks),
        ("check_key", "provider.identity", checks),
        ("expires_at", "tomorrow", "2026-12-31"),
        (
            "reason",
            &"x".repeat(2001),
            "a text of 1 to 2000 characters",
        ),
        (
            "reason",
            "a\u{7}",
            "of control ones only tabs and line breaks",
        ),
        ("acknowledged_by", "a\nb", line),
        ("acknowledged_by", "a\tb", line),
    ] {
        let mut body = json!({ "check_key": "a.b", "reason": "x" });
        body[field] = json!(value);
        let refused = send(body.clone()).await;
        assert_eq!(refused.refusal(), (422, "invalid-body"), "{body}");
        let named = named(&refused.body)[0];
        assert_eq!(named.0, field);
        assert!(named.1.contains(allowed), "{named:?}");
    }
    let body = json!({ "check_key": "a.b", "reason": "x", "expires_at": "2001-01-01T00:00:00Z" });
    assert_eq!(named(&send(body).await.body), [("expires_at", future)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_methods_that_do_not_exist_are_problems() {
    let scene = Scene::sqlite().await;
    let token = &scene.master().await;
    for path in [
        "/v1/nothing",
        "/v1/runs/",
        "/v1/runs/abc",
        "/v1/runs/-1",
        "/v1/runs/007",
        "/v1/runs/%2B7",
        "/v1/runs/%207",
        "/v1/runs/1_000",
        "/v1/connections/01",
        "/v1/runs/%2e%2e",
        "/v1/runs/99999999999999999999",
        "/v1/runs/1/nothing",
        "/v1/connections/0",
    ] {
        let answer = scene.get(token, path).await;
        assert_eq!(answer.refusal(), (404, "not-found"), "{path}");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/v1/runs", "GET,HEAD"),
        (Method::PUT, "/v1/runs/1", "GET,HEAD"),
        (Method::GET, "/v1/connections/1/checks", "POST"),
        (Method::POST, "/v1/openapi.json", "GET,HEAD"),
    ] {
        let answer = scene.call(method.clone(), path, token, None, &[]).await;
        assert_eq!(answer.refusal(), (405, "method-not-allowed"), "{path}");
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
}
