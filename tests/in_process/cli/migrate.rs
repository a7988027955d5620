//! `migrate --plan` on the embedded database.

use super::{Desk, assert_holds, stdout};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_lists_what_is_pending_and_creates_no_file() {
    let desk = Desk::new().await;
    let plan = desk.json("migrate --plan --json");
    assert_eq!(plan["database"], "sqlite");
    assert_eq!(plan["version"], Value::Null);
    let pending = plan["pending"].as_array().unwrap().len();
    assert!(pending >= 17, "{plan}");
    assert_eq!(plan["pending"][0]["locks"], json!([]));
    let shown = stdout(&desk.ends("migrate --plan", 0));
    let first = format!("schema version none (sqlite), {pending} migrations to apply");
    assert_holds(&shown, &first);
    let files = std::fs::read_dir(desk.folder.path()).unwrap();
    assert_eq!(files.count(), 0);

    desk.ends("migrate", 0);
    let plan = desk.json("migrate --plan --json");
    assert_eq!(plan["version"], pending);
    assert_eq!(plan["pending"], json!([]));
    desk.ends("migrate --plan --enforce", 2);
}
