//! axe-core on every page, in both colour schemes.

use crate::pages::webdriver::Browser;
use crate::tools::installed;
use serde_json::{Value, json};

/// Serious and critical findings of the page that is open.
pub async fn findings(browser: &Browser) -> Vec<String> {
    let script = std::fs::read_to_string(installed("axe-core")).unwrap();
    browser.js(&format!("{script}; return 1")).await;
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
