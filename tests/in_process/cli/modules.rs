//! A module of one's own, written by following the docs: validated, checked, planned.

use super::{Desk, Scenario, add_line, assert_holds, finish, json, stderr, stdout};
use serde_json::Value;
use verifyd_simulator::SIMULATED_SECRET;

/// The file of the guide, as it stands there.
fn module_of_the_guide() -> String {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guides/modules.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let (_, rest) = guide.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

impl Desk {
    /// A module in this file; its path.
    fn module(&self, name: &str, text: &str) -> String {
        let folder = self.folder.path().join("modules");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name).to_str().unwrap().to_owned();
        std::fs::write(&path, text).unwrap();
        path
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
    let desk = Desk::new().await;
    let file = desk.module("access_review.toml", &module_of_the_guide());
    let validated = desk.run(&format!("modules validate {file}"));
    assert!(validated.status.success(), "{}", stdout(&validated));
    let counts = "module access_review (permissions: 3, probes: 1)";
    assert_holds(&stdout(&validated), counts);
    assert_holds(&stderr(&validated), "verifyd plan --module FILE");
    let shown = desk.json("modules show access_review --json");
    assert_eq!(shown["permissions"][2]["role"], "Records.0.Read");
    let listed = stdout(&desk.run("modules list"));
    for key in [
        "health_check",
        "intune",
        "conditional_access",
        "access_review",
    ] {
        assert_holds(&listed, key);
    }

    let works = desk.connection(1, Scenario::Healthy, "Works");
    let breaks = desk.connection(2, Scenario::PermissionMissing, "=HYPERLINK(1)");
    let token = desk.connection(3, Scenario::InventoryFromToken, "Token");
    desk.connection(4, Scenario::Healthy, "Never");
    let disabled = desk.connection(5, Scenario::Healthy, "Disabled");
    desk.json(&format!("connections disable {disabled} --json"));
    let serving = desk.serve();
    let runs = [&works, &breaks, &token]
        .map(|id| desk.json(&format!("enqueue --connection {id} --wait 120 --json")));
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
    let shown = stdout(&desk.run(&format!("runs show {id}")));
    assert_holds(&shown, "Records.1.Read");

    let plan = desk.json_of(&format!("plan --module {file} --json"), 1);
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

    let csv = stdout(&desk.ends("plan --module access_review --csv", 1));
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert_holds(&csv, ",'=HYPERLINK(1),");
    let table = stdout(&desk.run("plan --module access_review"));
    assert_holds(&table, "1 of 4 connections would break");
    desk.ends("plan --module access_review --tenant 1", 0);
    let foreign = desk.json_of("plan --module access_review --workspace 9 --json", 2);
    assert_eq!(foreign["counts"]["connections"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_a_module_is_told_with_file_line_and_field() {
    let desk = Desk::new().await;
    let good = module_of_the_guide();
    let bad = good.replace("/v1.0/organization", "https://evil.example/v1.0/x");
    let line = 1 + bad.lines().position(|l| l.starts_with("path")).unwrap();
    let told = format!("bad.toml:{line}: probes[0].path: must begin with /v1.0/");
    let file = desk.module("bad.toml", &bad);
    // Needs no configuration that can be used.
    let validated = desk.ends(&format!("modules validate {file}"), 1);
    assert_holds(&stdout(&validated), &told);
    assert_holds(&stderr(&validated), "file:line: field: what is wrong");

    assert_holds(&stderr(&desk.ends("serve", 1)), &told);
    let doctor = desk.json_of("doctor --json", 1);
    let part = doctor["parts"].as_array().unwrap().iter();
    let part = part.clone().find(|p| p["part"] == "modules").unwrap();
    assert_eq!(part["state"], "failed");
    assert!(part["found"].as_str().unwrap().contains(&told), "{part}");
    // 1 would mean that connections break.
    desk.ends("plan --module intune", 2);
    std::fs::remove_file(file).unwrap();
    desk.ends("plan --module intune", 0);
    let unknown = desk.ends("plan --module nothing", 2);
    assert_holds(&stderr(&unknown), "health_check");
    let doctor = desk.json("doctor --json");
    assert!(doctor.to_string().contains("3 modules"), "{doctor}");
}
