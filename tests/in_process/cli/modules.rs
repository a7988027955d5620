//! A module of one's own, written by following the docs: validated, checked, planned.

use super::{Desk, Scenario, Serving, add_line, assert_holds, finish, json, stderr, stdout};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use verifyd_simulator::SIMULATED_SECRET;

/// The file of the guide, as it stands there.
fn module_of_the_guide() -> String {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guides/modules.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let (_, rest) = guide.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

struct Bench {
    desk: Desk,
}

impl Bench {
    async fn new() -> Self {
        let desk = Desk::new().await;
        std::fs::create_dir(desk.folder.path().join("modules")).unwrap();
        Self { desk }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.desk.folder.path().join("modules").join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, line: &str) -> std::process::Command {
        let mut command = self.desk.command(line);
        command.env("VERIFYD__MICROSOFT__MODULES_DIR", "modules");
        command
    }

    fn run(&self, line: &str) -> Output {
        finish(self.command(line), "")
    }

    fn json(&self, line: &str, code: i32) -> Value {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A connection of a tenant of its own; its id.
    fn connection(&self, number: u32, scenario: Scenario, name: &str) -> String {
        let extra = format!("--module access_review --display-name {name} --secret-stdin");
        let command = self.command(&add_line(number, scenario, &extra));
        let added = json(&finish(command, SIMULATED_SECRET));
        added["provider_connection_id"].to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_module_of_the_guide_is_validated_checked_and_planned() {
    let bench = Bench::new().await;
    let file = bench.file("access_review.toml", &module_of_the_guide());
    let file = file.to_str().unwrap();
    let validated = bench.run(&format!("modules validate {file}"));
    assert!(validated.status.success(), "{}", stdout(&validated));
    let shown = bench.json("modules show access_review --json", 0);
    assert_eq!(shown["permissions"][2]["role"], "Records.0.Read");
    let listed = stdout(&bench.run("modules list"));
    for key in [
        "health_check",
        "intune",
        "conditional_access",
        "access_review",
    ] {
        assert_holds(&listed, key);
    }

    let works = bench.connection(1, Scenario::Healthy, "Works");
    let breaks = bench.connection(2, Scenario::PermissionMissing, "=HYPERLINK(1)");
    let token = bench.connection(3, Scenario::InventoryFromToken, "Token");
    bench.connection(4, Scenario::Healthy, "Never");
    let disabled = bench.connection(5, Scenario::Healthy, "Disabled");
    bench.json(&format!("connections disable {disabled} --json"), 0);
    let serving = Serving(
        bench
            .command("serve")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut runs = Vec::new();
    for connection in [&works, &breaks, &token] {
        let run = bench.json(
            &format!("enqueue --connection {connection} --wait 120 --json"),
            0,
        );
        runs.push(run);
    }
    drop(serving);
    let check = |run: &Value, key: &str| -> Value {
        let checks = run["context"]["verification_report"]["checks"].as_array();
        let found = checks.unwrap().iter().find(|c| c["key"] == key);
        found.unwrap_or_else(|| panic!("{key}: {run}")).clone()
    };
    let records = "permissions.5c0000a0_0000_4000_8000_000000000001.records_0_read";
    assert_eq!(runs[0]["context"]["module"], "access_review");
    assert_eq!(check(&runs[0], records)["status"], "pass");
    assert_eq!(check(&runs[0], "access_review.directory")["status"], "pass");
    assert_eq!(check(&runs[0], "permissions.excess")["status"], "pass");
    assert_eq!(
        check(&runs[1], "permissions.policy_read_all")["reason_code"],
        "permission_missing"
    );
    assert_eq!(
        check(&runs[2], records)["reason_code"],
        "permission_unknown"
    );

    let id = runs[0]["operation_run_id"].to_string();
    let shown = stdout(&bench.run(&format!("runs show {id}")));
    assert_holds(&shown, "Records.1.Read");

    let plan = bench.json(&format!("plan --module {file} --json"), 1);
    let verdicts: Vec<(&str, &str)> = plan["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            let name = line["display_name"].as_str().unwrap();
            (name, line["verdict"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        verdicts,
        [
            ("Works", "works"),
            ("=HYPERLINK(1)", "breaks"),
            ("Token", "unknown"),
            ("Never", "unknown")
        ]
    );
    assert_eq!(
        plan["counts"],
        serde_json::json!({
            "connections": 4, "works": 1, "breaks": 1, "unknown": 2, "disabled": 1
        })
    );
    let broken = &plan["connections"][1];
    assert_eq!(broken["missing"][0]["permission"], "Policy.Read.All");
    assert_eq!(broken["overall"], "blocked");
    assert!(
        broken["consent_url"]
            .as_str()
            .unwrap()
            .starts_with("https://")
    );
    assert_eq!(plan["connections"][2]["unknown"], "other_apis_not_read");
    assert_eq!(plan["connections"][3]["unknown"], "never_read");

    let csv = bench.run("plan --module access_review --csv");
    assert_eq!(csv.status.code(), Some(1));
    let csv = stdout(&csv);
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert_holds(&csv, ",'=HYPERLINK(1),");
    let table = stdout(&bench.run("plan --module access_review"));
    assert_holds(&table, "1 of 4 connections would break");
    let narrowed = bench.run("plan --module access_review --tenant 1");
    assert_eq!(narrowed.status.code(), Some(0));
    let foreign = bench.json("plan --module access_review --workspace 9 --json", 2);
    assert_eq!(foreign["counts"]["connections"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_a_module_is_told_with_file_line_and_field() {
    let bench = Bench::new().await;
    let good = module_of_the_guide();
    let bad = good.replace("/v1.0/organization", "https://evil.example/v1.0/x");
    let line = 1 + bad.lines().position(|l| l.starts_with("path")).unwrap();
    let told = format!("bad.toml:{line}: probes[0].path: must begin with /v1.0/");
    let file = bench.file("bad.toml", &bad);
    let file = file.to_str().unwrap();
    // Needs no configuration that can be used.
    let validated = bench.run(&format!("modules validate {file}"));
    assert_eq!(validated.status.code(), Some(1));
    assert_holds(&stdout(&validated), &told);

    let served = bench.run("serve");
    assert_eq!(served.status.code(), Some(1));
    assert_holds(&stderr(&served), &told);
    let doctor = bench.json("doctor --json", 1);
    let part = doctor["parts"].as_array().unwrap().iter();
    let part = part.clone().find(|p| p["part"] == "modules").unwrap();
    assert_eq!(part["state"], "failed");
    assert!(part["found"].as_str().unwrap().contains(&told), "{part}");
    // 1 would mean that connections break.
    let plan = bench.run("plan --module intune");
    assert_eq!(plan.status.code(), Some(2));
    std::fs::remove_file(file).unwrap();
    assert_eq!(bench.run("plan --module intune").status.code(), Some(0));
    let unknown = bench.run("plan --module nothing");
    assert_eq!(unknown.status.code(), Some(2));
    assert_holds(&stderr(&unknown), "health_check");
    let doctor = bench.json("doctor --json", 0);
    assert!(doctor.to_string().contains("3 modules"), "{doctor}");
}
