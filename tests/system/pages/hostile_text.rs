//! What somebody else wrote does nothing.

use crate::api::scene::{ALL, Scene};
use crate::pages::accessibility;
use crate::pages::person::Person;
use crate::pages::webdriver::Browser;
use serde_json::{Value, json};
use test_support::world::operator;
use verifyd::domain::RunId;
use verifyd::domain::access::Binding;
use verifyd::domain::connection::NewConnection;
use verifyd::domain::{TenantId, WorkspaceId};
use verifyd_simulator::Scenario;

const SCRIPT: &str = "<script>window.hit=1;alert(1)</script>";
const IMAGE: &str = "\"><img src=x onerror=\"window.hit=1;alert(1)\">";
/// Right to left, with signs that turn the direction of what follows.
const TURNED: &str = "\u{202E}\u{5E9}\u{5DC}\u{5D5}\u{5DD} evil\u{2066}";

/// A completed run as another program might have written it.
async fn write(scene: &Scene, context: &Value) -> RunId {
    let text = serde_json::to_string(context).unwrap().replace('\'', "''");
    scene
        .world
        .sql(&format!(
            "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, outcome, context, \
             completed_at) VALUES (1, 1, 'provider.connection.check', 'completed', 'failed', \
             '{text}', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"
        ))
        .await;
    let filter = verifyd::ports::store::RunFilter {
        limit: 1,
        ..Default::default()
    };
    scene.world.services.store.runs(&filter).await.unwrap()[0].id
}

/// Each page that has a name of others, and those without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_has_a_character_that_hides_or_turns_text() {
    const SHOWN: &str = "\u{FFFD}";
    let scene = Scene::at_work().await;
    let hidden = ['\u{202E}', '\u{1B}', '\u{200B}'];
    let names = ["\u{202E}gnp.exe", "\u{1B}[31mred", "\u{200B}"];
    let mut connections = Vec::new();
    for (number, name) in (1..).zip(names) {
        let id = scene.add(number, Scenario::SecretExpired).await;
        scene
            .world
            .set(id, &format!("display_name = '{name}'"))
            .await;
        connections.push((id, scene.check(id).await));
    }
    let mut context = scene.world.run(connections[0].1).await.context;
    for member in ["provider", "module"] {
        context[member] = json!(names.concat());
    }
    context["target_scope"]["entra_tenant_name"] = json!(names.concat());
    let written = write(&scene, &context).await;
    let key = scene.first_problem(written).await;
    scene
        .accept(written, &key, &format!("one\ntwo {}", names[0]))
        .await;
    let token = scene
        .world
        .token(&names.concat(), ALL, Binding::EVERYTHING)
        .await;
    let person = Person::logged_in(&scene.base, &token).await;
    let none: &[&str] = &[];
    let mut pages = vec![
        ("/".to_owned(), &names[..]),
        ("/connections".to_owned(), &names[..]),
        ("/connections?name=%E2%80%AE".to_owned(), none),
        ("/runs".to_owned(), &names[..]),
        (format!("/runs/{written}"), &names[..]),
        ("/modules".to_owned(), none),
        ("/modules/intune/plan".to_owned(), &names[..]),
        ("/workers".to_owned(), none),
        ("/audit".to_owned(), none),
    ];
    for (name, (connection, run)) in names.chunks(1).zip(connections) {
        pages.push((format!("/connections/{connection}"), name));
        pages.push((format!("/runs/{run}"), name));
    }
    for (page, shown) in pages {
        let html = person.page(&page).await;
        assert!(!html.contains(hidden), "{page}: {html}");
        for name in shown {
            let name = name.replace(hidden, SHOWN);
            assert!(html.contains(&name), "{page} lacks {name:?}: {html}");
        }
    }
    let run = person.page(&format!("/runs/{written}")).await;
    assert!(run.contains("one\ntwo"), "line breaks hide nothing: {run}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_reports_names_and_words_do_nothing() {
    let scene = Scene::at_work().await;
    let id = scene.add(1, Scenario::SecretExpired).await;
    let honest = scene.check(id).await;
    let mut context = scene.world.run(honest).await.context;
    let name = format!("{SCRIPT}{IMAGE}{TURNED}{}", "w".repeat(10_000));
    context["target_scope"]["entra_tenant_name"] = json!(name);
    context["provider"] = json!(format!("{IMAGE}{}", "p".repeat(10_000)));
    context["module"] = json!(format!("{TURNED}{SCRIPT}"));
    // As hostile as the schema lets it be.
    let mut bad = context.clone();
    for check in bad["verification_report"]["checks"].as_array_mut().unwrap() {
        check["title"] = json!(format!("{SCRIPT}{TURNED}{}", "t".repeat(120)));
        check["message"] = json!(format!("{IMAGE}{TURNED}{}", "m".repeat(800)));
        for step in check["next_steps"].as_array_mut().unwrap() {
            step["label"] = json!(format!("{SCRIPT}{TURNED}"));
            step["url"] = json!(format!("https://evil.example/{}", "u".repeat(1_500)));
        }
        check["evidence"] = json!([{ "kind": "found", "value": format!("{IMAGE}{TURNED}") }]);
    }
    // More than the schema allows: it is no report, and none of it is shown as one.
    let mut worse = context.clone();
    for check in worse["verification_report"]["checks"]
        .as_array_mut()
        .unwrap()
    {
        check["message"] = json!(format!("{SCRIPT}{}", "m".repeat(10_000)));
        check["next_steps"] = json!([{ "label": "x", "url": "javascript:window.hit=1" }]);
        check[SCRIPT] = json!(IMAGE);
    }
    let readable = write(&scene, &bad).await;
    let key = scene.first_problem(readable).await;
    let words = format!("{SCRIPT}{IMAGE}{TURNED}{}", "r".repeat(1_500));
    scene.accept(readable, &key, &words).await;
    let unreadable = write(&scene, &worse).await;
    worse["verification_report"] = json!([SCRIPT, { "schema_version": IMAGE }]);
    let odd = write(&scene, &worse).await;
    let named = scene
        .world
        .services
        .store
        .add_connection(
            &NewConnection {
                workspace_id: WorkspaceId(1),
                tenant_id: TenantId(1),
                provider: format!("microsoft{SCRIPT}"),
                display_name: Some(name),
                entra_tenant_id: IMAGE.into(),
                client_id: TURNED.into(),
                cloud: SCRIPT.into(),
                module: Some(IMAGE.into()),
            },
            None,
            operator(),
        )
        .await
        .unwrap();

    let token = scene
        .world
        .token(
            &format!("{SCRIPT}{IMAGE}{TURNED}"),
            ALL,
            Binding::EVERYTHING,
        )
        .await;
    let browser = Browser::start().await;
    browser.log_in(&scene.base, &token).await;
    let mut wrong = Vec::new();
    for page in [
        "/".to_owned(),
        "/connections".to_owned(),
        format!(
            "/connections?name={}",
            "%22%3E%3Cscript%3Ewindow.hit%3D1%3C/script%3E"
        ),
        format!("/connections/{named}"),
        "/runs".to_owned(),
        format!("/runs/{readable}"),
        format!("/runs/{readable}/run.json"),
        format!("/runs/{unreadable}"),
        format!("/runs/{odd}"),
        "/audit".to_owned(),
        "/login?next=javascript:window.hit=1".to_owned(),
    ] {
        for width in [1280, 390] {
            browser.size(width, 900).await;
            browser.go(&format!("{}{page}", scene.base)).await;
            assert!(!browser.dialog().await, "{page} opens a dialog");
            let found = browser
                .js("return [window.hit ?? null, \
                     document.querySelectorAll('main script, main img, a[href^=\"javascript\" i]').length]")
                .await;
            assert_eq!(found, json!([null, 0]), "{page}");
            let wide = browser
                .js("return document.documentElement.scrollWidth - innerWidth")
                .await;
            if wide.as_i64().unwrap() > 0 && !page.ends_with(".json") {
                wrong.push(format!("{page} at {width}: {wide} pixels too wide"));
            }
        }
        if !page.ends_with(".json") {
            let found = accessibility::findings(&browser).await;
            wrong.extend(found.into_iter().map(|f| format!("{page}: {f}")));
        }
        let said = browser.console().await;
        wrong.extend(said.into_iter().map(|line| format!("{page}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Every text of others is kept apart from the direction of the page.
    browser.go(&format!("{}/runs/{readable}", scene.base)).await;
    let loose = browser
        .js("const all = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT); \
             let n = 0; while (all.nextNode()) { const t = all.currentNode; \
             if (t.data.includes('\\u05E9') && !t.parentElement.closest('bdi, textarea, option')) n += 1; } return n")
        .await;
    assert_eq!(loose, 0);
    let links = browser
        .js(
            "return [...document.querySelectorAll('a[target=_blank]')].every(\
             a => a.rel.includes('noopener') && a.protocol === 'https:')",
        )
        .await;
    assert_eq!(links, true);
    browser.close().await;
}
