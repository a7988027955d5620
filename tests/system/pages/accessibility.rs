//! axe-core on every page, in both colour schemes.

use crate::pages::browser::Browser;
use serde_json::{Value, json};
use std::process::Command;

/// The script, which `scripts/axe-core` brings into `target`.
fn script() -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let done = Command::new("sh")
        .arg(format!("{root}/scripts/axe-core"))
        .current_dir(root)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "scripts/axe-core: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    let file = String::from_utf8(done.stdout).unwrap();
    std::fs::read_to_string(file.trim()).unwrap()
}

/// Serious and critical findings of the page that is open.
pub async fn findings(browser: &Browser) -> Vec<String> {
    browser.js(&format!("{}; return 1", script())).await;
    let result = browser
        .js("return axe.run(document, { resultTypes: ['violations'] })")
        .await;
    let violations = result["violations"].as_array().unwrap();
    assert!(
        result["passes"].as_array().is_some_and(|p| !p.is_empty()),
        "axe looked at nothing"
    );
    violations
        .iter()
        .filter(|v| ["serious", "critical"].contains(&v["impact"].as_str().unwrap_or_default()))
        .map(|v| {
            let nodes: Vec<&Value> = v["nodes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| &n["html"])
                .collect();
            format!("{}: {} {}", v["id"], v["help"], json!(nodes))
        })
        .collect()
}
