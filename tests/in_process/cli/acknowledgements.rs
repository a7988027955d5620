//! Acknowledgements and onboarding sessions on the command line.

use super::{Desk, assert_holds, finish, json, stderr, stdout};
use sqlx::Connection as _;
use verifyd_simulator::{SIMULATED_SECRET, Scenario};

#[tokio::test(flavor = "multi_thread")]
async fn problems_are_acknowledged_and_sessions_follow_their_run() {
    let desk = Desk::new().await;
    let failing = desk.add(Scenario::SecretExpired, "--secret-stdin", SIMULATED_SECRET);
    let _serving = desk.serve();
    let check = |extra: &str| {
        let enqueue = format!("enqueue --connection {failing} --wait 120 --json {extra}");
        desk.json_of(&enqueue, 10)["operation_run_id"].to_string()
    };
    let show = |run: &str| desk.json(&format!("runs show {run} --json"))["view"].clone();
    let first = check("");
    let view = show(&first);
    let problem = &view["report"]["report"]["problems"][0];
    assert_eq!(problem["acknowledgeable"], true);
    let key = problem["key"].as_str().unwrap().to_owned();

    // What cannot be is named with what is allowed. What all surfaces refuse is in tests/system/api/situations.rs.
    let long = "x".repeat(2001);
    let acknowledge = |command: &str, extra: &[&str]| {
        let mut command = desk.command(&format!("{command} {first} {key} --reason"));
        command.args(extra);
        finish(command, "")
    };
    for (arguments, code, words) in [
        (
            &["  "][..],
            1,
            "--reason: has 0 characters, allowed: 1 to 2000",
        ),
        (&[&long], 1, "--reason: has 2001 characters"),
        (&["r", "--by", "a\nb"], 1, "--by: has a control character"),
        (
            &["r", "--expires", "2020-01-01T00:00:00Z"],
            1,
            "--expires: has passed, allowed: a time in the future",
        ),
        (&["r", "--expires", "soon"], 2, "such as 30d"),
    ] {
        let output = acknowledge("acknowledge", arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(
            stderr(&output).contains(words),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }

    let none = desk.ends(&format!("acknowledge {first} no.such --reason r"), 1);
    assert_holds(
        &stderr(&none),
        "<CHECK>: the report has no check \"no.such\"",
    );
    let none = desk.ends("onboarding show 7", 1);
    assert!(stderr(&none).contains("onboarding session 7: no such onboarding session"));

    let accepted = [
        " renewal is ordered\nticket 17 ",
        "--by",
        "Ann",
        "--expires",
        "30d",
        "--json",
    ];
    let made = json(&acknowledge("acknowledgements add", &accepted));
    assert_eq!(made["created"], true);
    assert_eq!(
        made["acknowledgement"]["reason"],
        "renewal is ordered\nticket 17"
    );
    // The command's former name.
    let again = json(&acknowledge("acknowledge", &accepted));
    assert_eq!(again["created"], false);
    assert_eq!(again["acknowledgement"], made["acknowledgement"]);

    // A session of the embedded database; the next run is for it, and inherits.
    let url = format!("sqlite:{}", desk.folder.path().join("verifyd.db").display());
    let mut door = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query(
        "INSERT INTO tenant_onboarding_sessions (id, workspace_id, tenant_id) VALUES (7, 1, 1)",
    )
    .execute(&mut door)
    .await
    .unwrap();
    let none = desk.run("onboarding show 7");
    assert_holds(&stdout(&none), "No check has been started");
    let second = check("--onboarding-session 7");
    let session = desk.json("onboarding show 7 --json");
    assert_eq!(session["verification_operation_run_id"].to_string(), second);
    assert_eq!(session["provider_connection_id"].to_string(), failing);
    assert_eq!(session["run"]["view"], show(&second));
    let view = show(&second);
    let said = &view["report"]["report"]["problems"][0]["acknowledgement"];
    assert_eq!(
        (said["inherited"].clone(), &said["id"]),
        (true.into(), &made["acknowledgement"]["id"])
    );
    assert_eq!(view["report"]["report"]["acknowledged"], 1);
    assert_eq!(view["outcome"], "failed");
    let shown = stdout(&desk.run(&format!("runs show {second}")));
    for words in [
        "acknowledged.",
        "acknowledged by “Ann” (command line, ",
        "ticket 17",
        "recorded",
        "attempt 1 by",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let session = stdout(&desk.run("onboarding show 7"));
    assert_holds(&session, "acknowledged by “Ann” (command line, ");

    let id = said["id"].to_string();
    let withdrawn = desk.json(&format!("acknowledgements withdraw {id} --by Bob --json"));
    assert_eq!(withdrawn["standing"], "withdrawn");
    let listed = desk.json(&format!("acknowledgements list --run {first} --json"));
    assert_eq!(listed[0]["withdrawn_by"], "Bob");
    assert_eq!(
        desk.json("acknowledgements list --active --json"),
        serde_json::json!([])
    );
    let listed = stdout(&desk.run("acknowledgements list"));
    assert_holds(&listed, "withdrawn by “Bob”");
    let third = show(&check(""));
    assert_eq!(third["report"]["report"]["acknowledged"], 0);
}
