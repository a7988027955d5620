//! Who may do what: every route of the document, without a list of its own.

use crate::scene::{ALL, Reply, Scene, bound, operations};
use reqwest::Method;
use serde_json::{Value, json};
use verifyd::domain::TokenId;
use verifyd::domain::access::{Binding, Scope};

const FOREVER: &str = "999999999";

/// A path with this id in place of each parameter.
fn with_id(template: &str, id: &str) -> String {
    let parts = template.split('/');
    let parts = parts.map(|part| if part.starts_with('{') { id } else { part });
    parts.collect::<Vec<_>>().join("/")
}

async fn call(scene: &Scene, method: &Method, path: &str, token: &str) -> Reply {
    scene.call(method.clone(), path, token, None, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_answers_without_its_scope() {
    let scene = Scene::postgres().await;
    let store = &scene.world.services.store;
    let revoked = scene.master().await;
    assert!(store.revoke_token(TokenId(1)).await.unwrap());
    let expired = scene.master().await;
    scene
        .sql("UPDATE verifyd.api_tokens SET expires_at = now() WHERE id = 2 RETURNING id")
        .await;
    let unknown = {
        let text = verifyd::domain::token::fresh().unwrap();
        secrecy::ExposeSecret::expose_secret(&text).to_owned()
    };
    let mut guarded = 0;
    for (method, template, scope) in operations() {
        let path = with_id(&template, FOREVER);
        let Some(scope) = scope else {
            let answer = call(&scene, &method, &path, "").await;
            assert_eq!(
                (template.as_str(), answer.status),
                ("/v1/openapi.json", 200)
            );
            continue;
        };
        guarded += 1;
        for wrong in ["", "vfd_nonsense", &revoked, &expired, &unknown] {
            let answer = call(&scene, &method, &path, wrong).await;
            assert_eq!(answer.status, 401, "{method} {path} {wrong}");
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
            assert_eq!(
                answer.header("www-authenticate").contains("error="),
                !wrong.is_empty()
            );
        }
        let basic = scene
            .request(method.clone(), &path)
            .basic_auth("x", Some(&unknown));
        assert_eq!(scene.send(basic).await.status, 401);
        let others: Vec<Scope> = ALL.iter().copied().filter(|s| *s != scope).collect();
        let token = scene.token(&others, Binding::EVERYTHING).await;
        let answer = call(&scene, &method, &path, &token).await;
        assert_eq!(
            (answer.status, answer.problem()),
            (403, "forbidden"),
            "{method} {path}"
        );
        assert!(answer.header("www-authenticate").contains(scope.as_str()));
        let token = scene.token(&[scope], Binding::EVERYTHING).await;
        let answer = call(&scene, &method, &path, &token).await;
        assert!(
            ![401, 403].contains(&answer.status),
            "{method} {path}: {answer:?}"
        );
    }
    assert!(guarded >= 12, "only {guarded} routes");
}

/// What does not depend on the request itself.
fn essence(mut reply: Reply) -> (u16, Value) {
    for member in ["instance", "request_id"] {
        reply.body.as_object_mut().unwrap().remove(member);
    }
    (reply.status, reply.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_reach_does_not_exist() {
    let scene = Scene::postgres().await;
    scene.work();
    let master = &scene.master().await;
    // Of each kind of thing one, all with the same id, of tenant 1 in workspace 1.
    let connection = scene.lacking(1).await;
    let run = scene.checked(master, connection).await;
    let shown = scene.get(master, &format!("/v1/runs/{run}")).await;
    let key = &shown.body["report"]["report"]["problems"][0]["key"];
    let path = format!("/v1/runs/{run}/acknowledgements");
    let body = json!({ "check_key": key, "reason": "known" });
    let made = scene.post(master, &path, body.clone()).await;
    let session = scene
        .sql(
            "INSERT INTO tenant_onboarding_sessions (workspace_id, tenant_id, state) \
             VALUES (1, 1, '{}') RETURNING id",
        )
        .await;
    let all = [
        &json!(connection),
        &json!(run),
        &made.body["acknowledgement"]["id"],
        &json!(session),
    ];
    assert!(all.iter().all(|id| **id == json!(1)), "{all:?}");

    let strangers = [
        scene.token(ALL, bound(2, None)).await,
        scene.token(ALL, bound(1, Some(2))).await,
        scene.token(ALL, bound(2, Some(1))).await,
    ];
    let own = [
        scene.token(ALL, bound(1, None)).await,
        scene.token(ALL, bound(1, Some(1))).await,
    ];
    let mut with_ids = 0;
    for (method, template, _) in operations() {
        let body = (method == Method::POST && template.ends_with("/acknowledgements"))
            .then(|| body.clone());
        let ask = async |path: &str, token: &str| {
            let body = body.clone();
            scene.call(method.clone(), path, token, body, &[]).await
        };
        if !template.contains('{') {
            continue;
        }
        with_ids += 1;
        let (there, nowhere) = (with_id(&template, "1"), with_id(&template, FOREVER));
        for stranger in &strangers {
            let foreign = essence(ask(&there, stranger).await);
            let unknown = essence(ask(&nowhere, stranger).await);
            assert_eq!(foreign, unknown, "{method} {template}");
            assert_eq!(foreign.0, 404, "{method} {template}");
        }
        for token in &own {
            let answer = ask(&there, token).await;
            assert!(answer.status < 300, "{method} {template}: {answer:?}");
        }
    }
    assert!(with_ids >= 9, "only {with_ids} routes with ids");
    for list in ["/v1/runs", "/v1/connections", "/v1/acknowledgements"] {
        for stranger in &strangers {
            let answer = scene.get(stranger, list).await;
            assert_eq!(answer.body, json!({ "items": [], "next": null }), "{list}");
        }
        for token in &own {
            let answer = scene.get(token, list).await;
            assert!(
                !answer.body["items"].as_array().unwrap().is_empty(),
                "{list}"
            );
        }
    }
    // Workers belong to no workspace.
    assert_eq!(scene.get(&own[0], "/v1/workers").await.status, 403);
}
