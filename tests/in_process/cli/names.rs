//! Names and descriptions as commands store them.

use super::{Desk, finish, json};
use serde_json::Value;

const ADD_WEBHOOK: &str = "webhooks add --json --workspace 1 --url https://a.example/hook";

#[tokio::test(flavor = "multi_thread")]
async fn names_are_stored_without_characters_that_hide_others() {
    let desk = Desk::new().await;
    let (hostile, stored) = ("a\u{202e}b\u{200b}c", "a\u{fffd}b\u{fffd}c");
    let token = desk.json(&format!(
        "tokens create --json --scope read --name {hostile}"
    ));
    assert_eq!(token["name"], stored);
    let added = desk.json(&format!("{ADD_WEBHOOK} --description {hostile}"));
    assert_eq!(added["endpoint"]["description"], stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_description_of_an_endpoint_is_none() {
    let desk = Desk::new().await;
    for blank in ["", " \n"] {
        let mut command = desk.command(ADD_WEBHOOK);
        command.args(["--description", blank]);
        let added = json(&finish(command, ""));
        assert_eq!(added["endpoint"]["description"], Value::Null, "{blank:?}");
    }
}
