//! A client that a generator has made of the OpenAPI document works as its users expect.

use crate::api::scene::Scene;
use crate::tools::installed;
use std::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_lists_starts_a_check_without_a_body_and_reads_the_run() {
    let programs = installed("openapi-python-client");
    let scene = Scene::postgres().await;
    scene.work();
    let token = scene.master().await;
    let connection = scene.healthy(1).await;
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("openapi.json");
    let served = scene.get("", "/v1/openapi.json").await;
    std::fs::write(&document, served.body.to_string()).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", programs.display());
    let generated = Command::new(programs.join("openapi-python-client"))
        .args(["generate", "--meta", "none", "--fail-on-warning", "--path"])
        .arg(&document)
        .arg("--output-path")
        .arg(folder.path().join("verifyd_client"))
        .env("PATH", path)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&generated.stdout).into_owned();
    let said = said + &String::from_utf8_lossy(&generated.stderr);
    assert!(generated.status.success(), "{said}");
    let mut using = Command::new(programs.join("python3"));
    using
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/system/api/python/use.py"
        ))
        .args([&scene.base, &connection.to_string()])
        .env("PYTHONPATH", folder.path())
        .env("VERIFYD_TOKEN", &token);
    let used = tokio::task::spawn_blocking(move || using.output()).await;
    let used = used.unwrap().unwrap();
    assert!(
        used.status.success(),
        "{}",
        String::from_utf8_lossy(&used.stderr)
    );
}
