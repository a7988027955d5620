//! Terminal, API and page tell the same facts about the same ten runs.

use crate::api::scene::{ALL, Scene};
use crate::pages::person::Person;
use serde_json::Value;
use verifyd::domain::RunId;
use verifyd::domain::access::{Binding, Scope};
use verifyd_simulator::Scenario;

/// One line, without what is there for the eye only.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a person reads of the page, tags and entities resolved.
fn words(html: &str) -> String {
    let (_, main) = html.split_once("<main").unwrap();
    let (_, main) = main.split_once('>').unwrap();
    let (main, _) = main.split_once("</main>").unwrap();
    let mut text = String::new();
    let mut inside = false;
    for c in main.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                text.push(' ');
            }
            _ if !inside => text.push(c),
            _ => {}
        }
    }
    for (entity, c) in [
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#38;", "&"),
    ] {
        text = text.replace(entity, c);
    }
    plain(&text)
}

async fn terminal(scene: &Scene, run: RunId) -> String {
    let arguments = ["runs", "show", &run.to_string()].map(str::to_owned);
    let shown = scene.cli(arguments.to_vec()).await;
    assert!(shown.status.success(), "{shown:?}");
    // Lines are broken to fit; ids and words stay whole.
    plain(&String::from_utf8(shown.stdout).unwrap())
}

async fn page(person: &Person, run: RunId) -> (String, String) {
    let html = person.page(&format!("/runs/{run}")).await;
    (words(&html), html)
}

/// Every fact, in the order of the view.
fn facts(view: &Value) -> Vec<String> {
    let text = |value: &Value| plain(value.as_str().unwrap_or_default());
    let mut facts = vec![text(&view["verdict"])];
    let report = &view["report"]["report"];
    for problem in report["problems"].as_array().into_iter().flatten() {
        facts.push(text(&problem["title"]));
        facts.push(text(&problem["reason_code"]));
        facts.push(text(&problem["message"]));
        for evidence in problem["evidence"].as_array().into_iter().flatten() {
            facts.push(text(&evidence["value"]));
        }
        for step in problem["next_steps"].as_array().into_iter().flatten() {
            facts.push(text(&step["label"]));
        }
        if let Some(said) = problem["acknowledgement"].as_object() {
            facts.push(text(&said["reason"]));
            facts.push(text(&said["acknowledged_by"]));
            facts.push(text(&said["acknowledged_through"]["name"]));
        }
    }
    for list in ["passed", "skipped"] {
        for check in report[list].as_array().into_iter().flatten() {
            facts.push(text(&check["title"]));
        }
    }
    if let Some(fingerprint) = report["fingerprint"].as_str() {
        facts.push(fingerprint[..12].to_owned());
    }
    facts.retain(|fact| !fact.is_empty());
    facts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_runs_are_told_alike() {
    let scene = Scene::at_work().await;
    let mut runs = Vec::new();
    for (i, scenario) in [
        Scenario::Healthy,
        Scenario::HealthyIntune,
        Scenario::PermissionMissing,
        Scenario::PermissionPropagating,
        Scenario::SecretExpired,
        Scenario::ConsentMissing,
        Scenario::IdentityMismatch,
        Scenario::IntuneNotLicensed,
    ]
    .into_iter()
    .enumerate()
    {
        let id = scene.add(i as i64 + 1, scenario).await;
        runs.push(scene.check(id).await);
    }
    // A stub, written before anything was asked, and a run that nobody has looked at yet.
    let bare = scene
        .world
        .connection_with(9, &Scenario::Healthy.tenant_id(9), "health_check", None)
        .await;
    runs.push(scene.check(bare).await);
    scene
        .world
        .sql(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome, context, \
             completed_at) VALUES (1, 1, 'provider.connection.check', 'completed', 'failed', '{}', \
             strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
        )
        .await;
    runs.push(RunId(runs.last().unwrap().0 + 1));
    let accepted = runs[2];
    let key = scene.first_problem(accepted).await;
    scene.accept(accepted, &key, "Until the next audit.").await;

    let person = scene.person(ALL, Binding::EVERYTHING).await;
    let token = scene
        .world
        .token("api", &[Scope::Read], Binding::EVERYTHING)
        .await;
    for run in runs {
        let view = scene.get(&token, &format!("/v1/runs/{run}")).await.body;
        let facts = facts(&view);
        assert!(!facts.is_empty());
        let terminal = terminal(&scene, run).await;
        let (page, html) = page(&person, run).await;
        for fact in &facts {
            assert!(
                terminal.contains(fact),
                "run {run}: the terminal lacks {fact:?}: {terminal}"
            );
            assert!(
                page.contains(fact),
                "run {run}: the page lacks {fact:?}: {page}"
            );
        }
        // The same order of what is wrong, and the same addresses.
        let problems = view["report"]["report"]["problems"].as_array();
        let titles: Vec<String> = problems
            .into_iter()
            .flatten()
            .map(|p| plain(p["title"].as_str().unwrap()))
            .collect();
        for text in [&terminal, &page] {
            let places: Vec<usize> = titles.iter().map(|t| text.find(t).unwrap()).collect();
            assert!(places.is_sorted(), "run {run}: {titles:?}");
        }
        for url in problems
            .into_iter()
            .flatten()
            .flat_map(|p| p["next_steps"].as_array().unwrap())
            .map(|step| step["url"].as_str().unwrap())
        {
            assert!(terminal.replace(' ', "").contains(url), "run {run}: {url}");
            let href = format!("href=\"{}\"", url.replace('&', "&#38;"));
            assert!(html.contains(&href), "run {run}: {href}");
        }
    }
}
