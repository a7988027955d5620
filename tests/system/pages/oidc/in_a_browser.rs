//! With npm's `oidc-provider`, which the OpenID Foundation has certified, as a person with a browser uses it. The
//! provider is on another site than verifyd: cookies cross as they do in earnest.

use super::{SECRET, secret_file, settings};
use crate::api::scene::{Scene, serve_at};
use crate::pages::accessibility;
use crate::pages::webdriver::Browser;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use test_support::ends_with_test::ends_with_test;
use test_support::port::free_port;
use verifyd_simulator::Scenario;

struct Provider(Child);

impl Provider {
    /// Starts it, with claims in the ID token or in userinfo; returns when it listens.
    fn start(issuer: &str, redirect_uri: &str, claims_in: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = root.join("target/tools/oidc-provider/node_modules");
        assert!(
            modules.join("oidc-provider").is_dir(),
            "npm's oidc-provider is not here: run the tests by scripts/test, which installs it"
        );
        let mut provider = ends_with_test("TERM")
            .arg("node")
            .arg(root.join("tests/system/pages/oidc/node/provider.mjs"))
            .arg(modules)
            .args([issuer, SECRET, redirect_uri, claims_in])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(provider.stdout.take().unwrap()).lines();
        let listens = lines.by_ref().any(|line| line.unwrap() == "listening");
        assert!(listens, "the provider has ended");
        std::thread::spawn(move || lines.for_each(drop));
        Self(provider)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_sign_in_at_their_organization_and_out() {
    let (port, provider_port) = (free_port(), free_port());
    let base = format!("http://127.0.0.1:{port}");
    let issuer = format!("http://localhost:{provider_port}");
    let folder = tempfile::tempdir().unwrap();
    let oidc = settings(&issuer, &base, secret_file(&folder));
    let scene = Scene::sqlite_with(|settings| settings.http.oidc = oidc).await;
    scene.work();
    let listen = format!("127.0.0.1:{port}").parse().unwrap();
    serve_at(&scene.world.services, listen, scene.stop.clone()).await;
    let id = scene.add(1, Scenario::SecretExpired).await;
    let run = scene.check(id).await;
    let browser = Browser::start().await;

    // The provider does not run yet.
    browser.go(&format!("{base}/runs/{run}")).await;
    assert_eq!(browser.path().await, "/login");
    assert_eq!(
        accessibility::findings(&browser).await,
        Vec::<String>::new()
    );
    browser.click("#organization").await;
    browser
        .until("document.querySelector('[role=alert]')")
        .await;
    let said = browser.text("[role=alert]").await;
    assert!(said.contains("log in with an API token"), "{said}");
    let redirect_uri = format!("{base}/login/callback");
    let provider = Provider::start(&issuer, &redirect_uri, "id_token");

    // Somebody without access learns which groups do not count.
    let sign_in = async |account: &str| {
        // A look that has failed is not repeated at once.
        loop {
            browser.go(&format!("{base}/runs/{run}")).await;
            browser.click("#organization").await;
            browser
                .until("document.querySelector('#sign-in, [role=alert]')")
                .await;
            if browser.js("return location.hostname").await == "localhost" {
                break;
            }
        }
        browser.write("#account", account).await;
        browser.click("#sign-in button").await;
        browser.until("location.hostname === '127.0.0.1'").await;
    };
    sign_in("lee+strangers").await;
    browser
        .until("document.querySelector('[role=alert]')")
        .await;
    let said = browser.text("[role=alert]").await;
    assert!(said.contains("strangers"), "{said}");
    browser.forget_cookies().await;

    // Whoever has access is where they wanted to be, and is named in what they do.
    sign_in("kim+readers+runners").await;
    browser
        .until(&format!(
            "location.pathname === '/runs/{run}' && document.querySelector('header.top')"
        ))
        .await;
    assert_eq!(browser.js("return document.cookie").await, "");
    let who = browser.text("header.top").await;
    let name = "oidc: Kim Doe (kim+readers+runners)";
    assert!(who.contains(name), "{who}");
    browser.click("details.acknowledge summary").await;
    browser
        .write("details.acknowledge textarea", "A new one is ordered.")
        .await;
    browser.click("details.acknowledge button").await;
    browser.until("document.querySelector('.said')").await;
    let said = browser.text(".said").await.to_lowercase();
    assert!(said.contains(&name.to_lowercase()), "{said}");
    assert!(!said.contains("token oidc"), "{said}");

    // Logging out ends the provider's session, too: it asks again who it is.
    browser.click(".who button").await;
    browser.until("document.querySelector('#sign-out')").await;
    browser.click("#sign-out").await;
    browser
        .until("location.hostname === '127.0.0.1' && location.pathname === '/login'")
        .await;
    browser.go(&base).await;
    assert_eq!(browser.path().await, "/login");
    browser.click("#organization").await;
    browser.until("document.querySelector('#sign-in')").await;

    // Groups that only userinfo has count, too.
    drop(provider);
    let _provider = Provider::start(&issuer, &redirect_uri, "userinfo");
    sign_in("sam+readers").await;
    browser.until("document.querySelector('header.top')").await;
    let who = browser.text("header.top").await;
    assert!(who.contains("oidc: Kim Doe (sam+readers)"), "{who}");
    browser.close().await;
}
