//! The pictures of README.

use crate::pages::demo::Demo;
use crate::pages::webdriver::Browser;
use std::time::Duration;

/// Bytes of one picture, at most.
const LARGEST: usize = 200 * 1024;

/// `cargo test --test system -- --ignored screenshots` writes `docs/images` anew, from the demo.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes docs/images"]
async fn screenshots() {
    let demo = Demo::start();
    let base = &demo.base;
    let browser = Browser::start().await;
    browser.go(&demo.link).await;
    browser
        .until("location.pathname === '/' && document.querySelector('header.top')")
        .await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/images");
    std::fs::create_dir_all(folder).unwrap();
    for (name, path, scheme, width, height) in [
        ("overview-light", "/", "light", 1280, 860),
        ("overview-dark", "/", "dark", 1280, 860),
        ("connections-light", "/connections", "light", 1280, 860),
        ("run-dark", "latest of 4", "dark", 1280, 860),
        ("run-light", "latest of 3", "light", 1280, 860),
        ("overview-phone", "/", "light", 390, 844),
        ("run-phone-dark", "latest of 4", "dark", 390, 844),
    ] {
        browser.scheme(scheme).await;
        browser.size(width, height).await;
        match path.strip_prefix("latest of ") {
            None => browser.go(&format!("{base}{path}")).await,
            Some(id) => {
                browser.go(&format!("{base}/connections/{id}")).await;
                browser.click(".verdict a[href^='/runs/']").await;
                browser.until("document.getElementById('timeline')").await;
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let picture = browser.picture().await;
        assert!(picture.len() < LARGEST, "{name}: {} bytes", picture.len());
        std::fs::write(format!("{folder}/{name}.png"), picture).unwrap();
    }
    browser.close().await;
}
