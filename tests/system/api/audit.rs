//! The audit trail on every surface: who, from where, and in which request.

use crate::api::scene::{ALL, Scene, bound};
use crate::pages::person::Person;
use serde_json::{Value, json};
use std::time::Instant;
use verifyd::domain::access::{Binding, Scope};

/// Runs a command that must succeed.
async fn cli(scene: &Scene, line: &str) -> String {
    let arguments = line.split_whitespace().map(str::to_owned).collect();
    let output = scene.cli(arguments).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The newest entry of this action.
async fn newest(scene: &Scene, token: &str, action: &str) -> Value {
    let path = format!("/v1/audit?action={action}&limit=1");
    let found = scene.get(token, &path).await;
    assert_eq!(found.status, 200, "{found:?}");
    found.items()[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ins_name_the_token_and_the_address() {
    let scene = Scene::sqlite().await;
    let token = scene.world.token("ops", ALL, Binding::EVERYTHING).await;
    let person = Person::logged_in(&scene.base, &token).await;
    let entry = newest(&scene, &token, "session.signed_in").await;
    assert_eq!(entry["actor"], "ops");
    assert_eq!(entry["surface"], "pages");
    assert_eq!(entry["address"], "127.0.0.1");
    assert_eq!(entry["token_id"], entry["object_id"]);
    let id_of = |entry: &Value| entry["request_id"].as_str().unwrap().to_owned();
    let signed_in = id_of(&entry);
    let csrf = person.csrf().await;
    person.post("/logout", &[("csrf", &csrf)]).await;
    let entry = newest(&scene, &token, "session.signed_out").await;
    assert_eq!(entry["actor"], "ops");
    assert_ne!(id_of(&entry), signed_in);

    // Strangers fill nothing: the first refusal has an entry, the others are counted in the next one.
    let stranger = Person::at(&scene.base);
    let began = Instant::now();
    for _ in 0..30 {
        let refused = stranger.log_in("vfd_nonsense").await;
        assert_eq!(refused.status(), 401);
    }
    let path = "/v1/audit?action=session.sign_in_refused";
    let found = scene.get(&token, path).await;
    let entries = u64::try_from(found.items().len()).unwrap();
    let most = 1 + began.elapsed().as_secs() / 10;
    assert!((1..=most).contains(&entries), "{found:?}");
    let left_out = |entry: &Value| entry["after"]["others_without_an_entry"].as_u64().unwrap();
    let counted: u64 = found.items().iter().map(left_out).sum();
    assert!(entries + counted <= 30, "{found:?}");
    let first = found.items().last().unwrap();
    assert_eq!(left_out(first), 0);
    assert_eq!(first["actor"], "unknown");
    assert_eq!(first["object_id"], Value::Null);
    assert_eq!(first["address"], "127.0.0.1");
    assert!(!found.body.to_string().contains("nonsense"), "{found:?}");

    // They neither take the place of an entry about a tenant's token nor count in it.
    let within = bound(1, Some(1));
    let without_read = scene.world.token("theirs", &[Scope::Run], within).await;
    let refused = stranger.log_in(&without_read).await;
    assert_eq!(refused.status(), 401);
    let id = refused.headers()["x-request-id"].to_str().unwrap();
    let theirs = scene.world.token("reader", &[Scope::Audit], within).await;
    let found = scene.get(&theirs, path).await;
    assert_eq!(found.items().len(), 1, "{found:?}");
    assert_eq!(found.items()[0]["actor"], "theirs");
    assert_eq!(found.items()[0]["request_id"], id);
    assert_eq!(left_out(&found.items()[0]), 0);

    // The page shows the same, to those with the scope.
    let person = Person::logged_in(&scene.base, &token).await;
    let page = person.page("/audit").await;
    for words in ["Sign-in refused", "Signed out", "ops, 127.0.0.1"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let page = person.page("/audit?action=session.signed_out").await;
    assert!(
        page.contains("token 1") && !page.contains("unknown, "),
        "{page}"
    );
    assert_eq!(person.get("/audit?action=unknown").await.status(), 422);
    let others = [Scope::Read, Scope::Run, Scope::Admin];
    let person = scene.person(&others, Binding::EVERYTHING).await;
    assert_eq!(person.get("/audit").await.status(), 403);
    assert!(!person.page("/").await.contains("href=\"/audit\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_the_api_names_the_request() {
    let scene = Scene::sqlite().await;
    scene.work();
    let token = scene.world.token("console", ALL, Binding::EVERYTHING).await;
    let connection = scene.lacking(1).await;
    let run = scene.checked(&token, connection).await;
    let key = scene.first_problem(verifyd::domain::RunId(run)).await;
    let path = format!("/v1/runs/{run}/acknowledgements");
    let body = json!({ "check_key": key, "reason": "known" });
    let made = scene.post(&token, &path, body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let entry = newest(&scene, &token, "acknowledgement.added").await;
    assert_eq!(entry["actor"], "console");
    assert_eq!(entry["surface"], "api");
    assert_eq!(entry["request_id"], made.header("x-request-id"));
    assert_eq!(entry["address"], "127.0.0.1");
    assert_eq!(entry["object_id"], made.body["acknowledgement"]["id"]);
    assert_eq!(entry["after"]["check_key"], json!(key));
    assert_eq!(
        (&entry["workspace_id"], &entry["tenant_id"]),
        (&json!(1), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_leaves_entries_and_prints_them() {
    let scene = Scene::sqlite().await;
    let made = cli(
        &scene,
        "tokens create --name ops --scope audit --scope read --json",
    )
    .await;
    let made: Value = serde_json::from_str(&made).unwrap();
    let text = made["token"].as_str().unwrap();
    let connection = scene.healthy(1).await;
    cli(&scene, &format!("connections disable {connection}")).await;
    let listed = cli(&scene, "audit list --json").await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let actions: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        ["connection.disabled", "connection.added", "token.created"]
    );
    assert_eq!(listed[0]["surface"], "cli");
    assert_eq!(listed[0]["address"], Value::Null);
    assert!(
        listed[0]["actor"].as_str().unwrap().starts_with("uid "),
        "{listed}"
    );
    assert_eq!(listed[0]["before"], json!({ "status": "enabled" }));
    // The API shows the same entries, and so does an export.
    assert_eq!(scene.get(text, "/v1/audit").await.body["items"], listed);
    let lines = cli(&scene, "audit export").await;
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(json!(lines), listed);
    let filter = format!("audit export --csv --object connection --id {connection}");
    let csv = cli(&scene, &filter).await;
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 3, "{csv}");
    assert!(
        lines[0].starts_with("id,at,action,object,object_id"),
        "{csv}"
    );
    for printed in [listed.to_string(), csv] {
        assert!(!printed.contains(text), "{printed}");
    }
    let table = cli(&scene, "audit list --action connection.disabled").await;
    assert!(table.contains("status: enabled → disabled"), "{table}");
    // A page of the API leads to the next one, with its filter.
    let path = "/v1/audit?object=connection&limit=1";
    let page = scene.get(text, path).await;
    let next = page.body["next"].as_str().unwrap();
    assert_eq!(next, "/v1/audit?object=connection&before=3&limit=1");
    let page = scene.get(text, next).await;
    assert_eq!(page.items()[0]["action"], "connection.added");
    assert_eq!(page.body["next"], Value::Null);
}
