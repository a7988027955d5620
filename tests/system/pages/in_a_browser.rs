//! A person with a browser: every page, a running check, acknowledging, the keyboard, a phone.

use crate::api::scene::{ALL, Scene};
use crate::pages::accessibility;
use crate::pages::webdriver::{Browser, ENTER, TAB};
use verifyd::domain::access::Binding;
use verifyd_simulator::Scenario;

/// A scene with one connection of each kind, all checked twice, and the addresses of its pages.
pub async fn furnished() -> (Scene, Vec<String>) {
    let scene = Scene::at_work().await;
    let mut runs = Vec::new();
    for (tenant, scenario) in [
        (1, Scenario::Healthy),
        (2, Scenario::SecretExpired),
        (3, Scenario::PermissionMissing),
        (4, Scenario::PermissionPropagating),
        (5, Scenario::Healthy),
    ] {
        let id = scene.add(tenant, scenario).await;
        scene.check(id).await;
        if tenant == 5 {
            scene.world.disable(id).await;
            // As another application records it.
            let run = scene.world.record(id, |_| {}).await;
            scene.world.completed(run).await;
            runs.push(run);
        } else {
            runs.push(scene.check(id).await);
        }
    }
    let problem = scene.first_problem(runs[3]).await;
    scene.accept(runs[3], &problem, "It comes by itself.").await;
    let mut pages: Vec<String> = [
        "/",
        "/?period=7d",
        "/connections",
        "/connections?name=nobody",
        "/connections/2",
        "/runs",
        "/runs?state=failed",
        "/modules",
        "/modules/conditional_access/plan",
        "/workers",
        "/audit",
        "/nowhere",
    ]
    .map(str::to_owned)
    .into();
    pages.extend(runs.iter().map(|run| format!("/runs/{run}")));
    (scene, pages)
}

async fn open(scene: &Scene) -> Browser {
    let token = scene.world.token("ops", ALL, Binding::EVERYTHING).await;
    let browser = Browser::start().await;
    browser.log_in(&scene.base, &token).await;
    browser
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_shown_to_everybody() {
    let (scene, pages) = furnished().await;
    let browser = open(&scene).await;
    let mut wrong = Vec::new();
    for page in &pages {
        for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 390)] {
            browser.scheme(scheme).await;
            browser.size(width, 900).await;
            browser.go(&format!("{}{page}", scene.base)).await;
            let headings = browser
                .js("return document.querySelectorAll('h1').length")
                .await;
            assert_eq!(headings, 1, "{page}");
            let wide = browser
                .js("return document.documentElement.scrollWidth - innerWidth")
                .await;
            if wide.as_i64().unwrap() > 0 {
                wrong.push(format!("{page} at {width}: {wide} pixels too wide"));
            }
            for finding in accessibility::findings(&browser).await {
                wrong.push(format!("{page} {scheme} {width}: {finding}"));
            }
        }
        let said: Vec<String> = browser.console().await;
        // The page of an error is an error to the console, too.
        let odd = said
            .into_iter()
            .filter(|line| !(page == "/nowhere" && line.contains("404")));
        wrong.extend(odd.map(|line| format!("{page}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_is_started_and_followed_without_loading_the_page() {
    let scene = Scene::at_work().await;
    let id = scene.add(1, Scenario::Slow).await;
    let browser = open(&scene).await;
    browser.go(&format!("{}/connections", scene.base)).await;
    assert!(browser.text("main").await.contains("Never checked"));
    browser.click(&format!("#again-{id}")).await;
    browser
        .until("location.pathname.startsWith('/runs/')")
        .await;
    browser.js("window.sameDocument = true; return 1").await;
    let verdict = browser.text("h1").await;
    assert!(
        verdict.contains("Waiting for a worker") || verdict.contains("Being checked"),
        "{verdict}"
    );
    browser
        .until("document.querySelector('h1').innerText.includes('every permission')")
        .await;
    assert_eq!(browser.js("return window.sameDocument").await, true);
    assert!(browser.text("main").await.contains("Completed: succeeded"));
    // The overview shows what others do.
    browser.go(&scene.base).await;
    browser
        .until("document.getElementById('live-state').innerText === 'Live'")
        .await;
    browser.js("window.sameDocument = true; return 1").await;
    let other = scene.add(2, Scenario::SecretExpired).await;
    scene.check(other).await;
    browser
        .until("document.querySelector('main').innerText.includes('the client secret has expired')")
        .await;
    assert_eq!(browser.js("return window.sameDocument").await, true);
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_is_acknowledged_and_that_is_withdrawn_in_place() {
    let scene = Scene::at_work().await;
    let id = scene.add(1, Scenario::SecretExpired).await;
    let run = scene.check(id).await;
    let browser = open(&scene).await;
    let address = format!("/runs/{run}");
    browser.go(&format!("{}{address}", scene.base)).await;
    browser.click("details.acknowledge summary").await;
    browser
        .write(
            "details.acknowledge textarea",
            "A new one <b>is</b> ordered.",
        )
        .await;
    browser.click("details.acknowledge button").await;
    browser.until("document.querySelector('.said')").await;
    assert_eq!(browser.path().await, address);
    let said = browser.text(".said").await;
    assert!(said.contains("A new one <b>is</b> ordered."), "{said}");
    assert!(
        said.to_lowercase()
            .contains("acknowledged by “ops” (token ops)"),
        "{said}"
    );
    // Status and outcome stay.
    assert!(browser.text("section.verdict").await.contains("Failed"));
    assert!(browser.text("h1").await.contains("It is acknowledged."));
    browser.go(&scene.base).await;
    assert!(browser.text("main").await.contains("has been acknowledged"));
    browser.go(&format!("{}{address}", scene.base)).await;
    browser.click(".said button").await;
    browser
        .until("document.querySelector('details.acknowledge') && !document.querySelector('.said:not(.past)')")
        .await;
    assert!(
        browser
            .text("main")
            .await
            .contains("Earlier acknowledgements (1)")
    );
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logging_in_by_hand_by_link_and_out() {
    let scene = Scene::sqlite().await;
    let token = scene.world.token("ops", ALL, Binding::EVERYTHING).await;
    let browser = Browser::start().await;
    browser.go(&format!("{}/runs", scene.base)).await;
    assert_eq!(browser.path().await, "/login");
    browser.write("#token", "vfd_wrong").await;
    browser.click("#login button").await;
    browser
        .until("document.querySelector('[role=alert]')")
        .await;
    assert!(
        browser
            .text("[role=alert]")
            .await
            .contains("no token of verifyd")
    );
    assert_eq!(
        accessibility::findings(&browser).await,
        Vec::<String>::new()
    );
    // What was asked for at first is shown afterwards.
    browser.write("#token", &token).await;
    browser.click("#login button").await;
    browser.until("location.pathname === '/runs'").await;
    assert_eq!(browser.js("return document.cookie").await, "");
    browser.click(".who button").await;
    browser.until("location.pathname === '/login'").await;
    // The one-time link of the demo.
    browser.go("about:blank").await;
    browser
        .go(&format!("{}/login#token={token}", scene.base))
        .await;
    browser
        .until("location.pathname === '/' && document.querySelector('header.top')")
        .await;
    assert_eq!(browser.js("return location.hash").await, "");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keyboard_is_enough() {
    let scene = Scene::at_work().await;
    let id = scene.add(1, Scenario::SecretExpired).await;
    scene.check(id).await;
    let browser = open(&scene).await;
    browser.go(&scene.base).await;
    // A key that is pressed before the page has the focus goes nowhere.
    browser
        .until("document.readyState === 'complete' && document.hasFocus()")
        .await;
    browser.press(TAB).await;
    browser
        .until("document.activeElement.innerText === 'Skip to the content'")
        .await;
    let at = "return document.activeElement.innerText || document.activeElement.id";
    browser.press(ENTER).await;
    browser.until("document.activeElement.id === 'main'").await;
    // From the content to the button that checks again; each stop is visible.
    let mut stops = Vec::new();
    for _ in 0..12 {
        browser.press(TAB).await;
        let seen = browser
            .js(
                "const a = document.activeElement, s = getComputedStyle(a); \
                 return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2",
            )
            .await;
        let stop = browser.js(at).await.as_str().unwrap_or_default().to_owned();
        assert_eq!(seen, true, "the focus on {stop:?} cannot be seen");
        let there = stop.starts_with("Check again");
        stops.push(stop);
        if there {
            break;
        }
    }
    assert!(
        stops.last().unwrap().starts_with("Check again"),
        "{stops:?}"
    );
    assert!(
        stops.iter().any(|s| s.starts_with("Create a new secret")),
        "{stops:?}"
    );
    browser.press(ENTER).await;
    browser
        .until("location.pathname.startsWith('/runs/')")
        .await;
    browser.close().await;
}
