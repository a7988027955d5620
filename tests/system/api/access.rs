//! Who may do what: every route of the document, without a list of its own.

use crate::api::limits::unknown;
use crate::api::scene::{ALL, DOCUMENT, Reply, Scene, bound, operations, with_id};
use reqwest::Method;
use serde_json::{Value, json};
use test_support::world::operator;
use verifyd::domain::TokenId;
use verifyd::domain::access::{Binding, Scope};

const FOREVER: &str = "999999999";

async fn call(scene: &Scene, method: &Method, path: &str, token: &str) -> Reply {
    scene.call(method.clone(), path, token, None, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_answers_without_its_scope() {
    let scene = Scene::postgres().await;
    let store = &scene.world.services.store;
    let revoked = scene.master().await;
    assert!(store.revoke_token(TokenId(1), operator()).await.unwrap());
    let expired = scene.master().await;
    scene
        .sql("UPDATE verifyd.api_tokens SET expires_at = now() WHERE id = 2 RETURNING id")
        .await;
    let unknown = unknown();
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
        assert_eq!(answer.refusal(), (403, "forbidden"), "{method} {path}");
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

/// What a whole number of a request stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    /// The id of a connection, a run, an acknowledgement or a tenant.
    Id,
    /// The id of an onboarding session.
    Session,
    /// Where a page of a list goes on: it is compared, and leads to nothing by itself.
    Cursor,
    /// No id at all.
    Count,
}

/// Every whole number that a request may hold, by its place and name. What is new has to be entered
/// here, and is then tried on every route.
const NUMBERS: [(&str, &str, Number); 13] = [
    ("path", "connection_id", Number::Id),
    ("path", "run_id", Number::Id),
    ("path", "acknowledgement_id", Number::Id),
    ("path", "onboarding_session_id", Number::Session),
    ("query", "connection", Number::Id),
    ("query", "run", Number::Id),
    ("query", "tenant", Number::Id),
    ("query", "token", Number::Id),
    ("query", "object_id", Number::Id),
    ("query", "before", Number::Cursor),
    ("query", "after", Number::Cursor),
    ("query", "limit", Number::Count),
    ("body", "onboarding_session_id", Number::Session),
];

/// Place, name and meaning of every whole number that the request of this operation may hold. Names
/// that say that they are ids count whatever their type, at any depth.
fn numbers(operation: &Value) -> Vec<(String, String, Number)> {
    let mut found = Vec::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap();
        if may_be_an_id(name, &parameter["schema"]) {
            let place = parameter["in"].as_str().unwrap();
            found.push((place.to_owned(), name.to_owned()));
        }
    }
    let content = operation["requestBody"]["content"].as_object();
    for kind in content.into_iter().flat_map(|c| c.values()) {
        members(&kind["schema"], &mut found);
    }
    let meaning = |(place, name): (String, String)| {
        let known = NUMBERS.iter().find(|(p, n, _)| (*p, *n) == (&place, &name));
        let (.., meaning) = known.unwrap_or_else(|| {
            panic!("{place} {name} may be an id that no test tries: enter it in NUMBERS")
        });
        (place, name, *meaning)
    };
    found.into_iter().map(meaning).collect()
}

fn may_be_an_id(name: &str, schema: &Value) -> bool {
    let is_integer = |kind: &Value| kind == "integer" || kind == "number";
    let of_type = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(is_integer),
        kind => is_integer(kind),
    };
    let by_name = ["id", "ids"]
        .iter()
        .any(|end| name.split('_').next_back() == Some(end));
    let items = &schema["items"];
    of_type || by_name || (!items.is_null() && may_be_an_id(name, items))
}

/// The members of a body at any depth, through references and alternatives.
fn members(schema: &Value, found: &mut Vec<(String, String)>) {
    if let Some(target) = schema["$ref"].as_str() {
        return members(DOCUMENT.pointer(&target[1..]).unwrap(), found);
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        if may_be_an_id(name, member) {
            found.push(("body".to_owned(), name.clone()));
        }
        members(member, found);
    }
    for kind in ["oneOf", "anyOf", "allOf"] {
        let alternatives = schema[kind].as_array().into_iter().flatten();
        alternatives.for_each(|one| members(one, found));
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            members(&schema[inner], found);
        }
    }
}

/// A list shows nothing to a stranger; the audit trail shows that tokens of the strangers' reach were made.
fn assert_nothing(list: &str, answer: &Reply) {
    if list == "/v1/audit" {
        for entry in answer.items() {
            assert_eq!(entry["action"], "token.created", "{entry}");
            let owner = (&entry["workspace_id"], &entry["tenant_id"]);
            assert_ne!(owner, (&json!(1), &json!(1)), "{entry}");
            assert!(!owner.0.is_null(), "{entry}");
        }
        return;
    }
    let nothing = json!({ "items": [], "next": null });
    assert_eq!(answer.body, nothing, "{list}");
}

/// All that a request could have changed.
async fn everything(scene: &Scene) -> String {
    let statement = "SELECT concat( \
        (SELECT json_agg(s ORDER BY s.id) FROM tenant_onboarding_sessions s), \
        (SELECT json_agg(json_build_array(r.id, r.status) ORDER BY r.id) FROM operation_runs r), \
        (SELECT json_agg(a ORDER BY a.id) FROM verification_check_acknowledgements a), \
        (SELECT json_agg(k ORDER BY k.idempotency_key) FROM verifyd.idempotency_keys k))";
    sqlx::query_scalar(statement)
        .fetch_one(&mut scene.connection().await)
        .await
        .unwrap()
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
    let acknowledge = json!({ "check_key": key, "reason": "known" });
    let made = scene.post(master, &path, acknowledge.clone()).await;
    let session = scene.session("1", "1", "'{}'").await;
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
    let before = everything(&scene).await;
    let (mut in_paths, mut in_queries) = (0, 0);
    let ask = async |method: &Method, template: &str, path: &str, token: &str| {
        let body = (*method == Method::POST && template.ends_with("/acknowledgements"))
            .then(|| acknowledge.clone());
        scene.call(method.clone(), path, token, body, &[]).await
    };
    for (method, template, _) in operations() {
        let operation = &DOCUMENT["paths"][&template][method.as_str().to_ascii_lowercase()];
        let numbers = numbers(operation);
        let ask = async |path: &str, token: &str| ask(&method, &template, path, token).await;
        // In the query: a list of what the token reaches, whatever is asked for.
        for (_, name, meaning) in numbers.iter().filter(|(place, ..)| place == "query") {
            in_queries += 1;
            let value = match meaning {
                Number::Cursor if name == "before" => FOREVER,
                _ => "1",
            };
            for stranger in &strangers {
                let answer = ask(&format!("{template}?{name}={value}"), stranger).await;
                assert_nothing(&template, &answer);
            }
        }
        if !template.contains('{') {
            continue;
        }
        in_paths += 1;
        assert!(
            numbers.iter().any(|(place, ..)| place == "path"),
            "{template}"
        );
        let (there, nowhere) = (with_id(&template, "1"), with_id(&template, FOREVER));
        for stranger in &strangers {
            let foreign = essence(ask(&there, stranger).await);
            let unknown = essence(ask(&nowhere, stranger).await);
            assert_eq!(foreign, unknown, "{method} {template}");
            assert_eq!(foreign.0, 404, "{method} {template}");
        }
        assert_eq!(
            everything(&scene).await,
            before,
            "{method} {template} wrote"
        );
    }
    assert!(in_paths >= 9, "only {in_paths} routes with ids");
    assert!(in_queries >= 9, "only {in_queries} ids in queries");
    for (method, template, _) in operations() {
        if template.contains('{') {
            let there = with_id(&template, "1");
            for token in &own {
                let answer = ask(&method, &template, &there, token).await;
                assert!(answer.status < 300, "{method} {template}: {answer:?}");
            }
        }
    }
    for list in [
        "/v1/runs",
        "/v1/connections",
        "/v1/acknowledgements",
        "/v1/audit",
    ] {
        for stranger in &strangers {
            assert_nothing(list, &scene.get(stranger, list).await);
        }
        for token in &own {
            let answer = scene.get(token, list).await;
            assert!(!answer.items().is_empty(), "{list}");
        }
    }
    // Workers belong to no workspace.
    assert_eq!(scene.get(&own[0], "/v1/workers").await.status, 404);
}

/// Ids in bodies are as unreachable as ids in paths, and nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_body_names_out_of_reach_does_not_exist() {
    let scene = Scene::postgres().await;
    let connection = scene.healthy(1).await;
    // Of the token's own tenant, of another, of none; of another workspace and its tenant, or of none.
    let mut sessions = Vec::new();
    for (workspace, tenants) in [("1", &["1", "2", "NULL"][..]), ("2", &["1", "NULL"])] {
        for tenant in tenants {
            sessions.push(scene.session(workspace, tenant, "'{}'").await);
        }
    }
    let of_tenant = scene.token(ALL, bound(1, Some(1))).await;
    let of_workspace = scene.token(ALL, bound(1, None)).await;
    let before = everything(&scene).await;
    let mut tried = 0;
    for (method, template, _) in operations() {
        let operation = &DOCUMENT["paths"][&template][method.as_str().to_ascii_lowercase()];
        for (place, name, meaning) in numbers(operation) {
            if place != "body" {
                continue;
            }
            // The only kind of thing that a body names yet.
            assert_eq!(meaning, Number::Session, "{name}");
            let path = with_id(&template, &connection.to_string());
            let ask = async |token: &str, id: &str, keyed: bool| {
                let body = json!({ &name: id.parse::<i64>().unwrap() });
                let key = keyed.then_some(("idempotency-key", "k"));
                let (method, headers) = (method.clone(), key.as_slice());
                scene.call(method, &path, token, Some(body), headers).await
            };
            for (token, out_of_reach) in [
                (&of_tenant, &sessions[1..]),
                (&of_workspace, &sessions[3..]),
            ] {
                for keyed in [false, true] {
                    let unknown = essence(ask(token, FOREVER, keyed).await);
                    assert_eq!(unknown.0, 404);
                    for id in out_of_reach {
                        tried += 1;
                        let foreign = essence(ask(token, &id.to_string(), keyed).await);
                        assert_eq!(foreign, unknown, "{method} {template} {name} {id}");
                        let read = format!("/v1/onboarding-sessions/{id}");
                        assert_eq!(scene.get(token, &read).await.status, 404, "as in a path");
                    }
                }
            }
            assert_eq!(everything(&scene).await, before, "{template} {name} wrote");
            // Within reach, but of another tenant than the connection: said, and nothing written.
            let misfit = ask(&of_workspace, &sessions[1].to_string(), false).await;
            assert_eq!(misfit.refusal(), (422, "invalid-body"));
            assert_eq!(everything(&scene).await, before);
            for (token, id) in [(&of_tenant, sessions[0]), (&of_workspace, sessions[2])] {
                let started = ask(token, &id.to_string(), false).await;
                assert!(started.status < 300, "{started:?}");
            }
        }
    }
    assert!(tried >= 12, "only {tried} ids in bodies");
}
