//! `verifyd doctor` tries what sign-in with OpenID Connect needs.

use super::doctor::examined;
use crate::pages::oidc::fake::Fake;
use test_support::bench::Bench;

const KEY: &str = "VERIFYD__HTTP__OIDC__";

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_whether_people_can_sign_in() {
    let fake = Fake::start().await;
    let mut bench = Bench::new().await;
    for (key, value) in [
        ("ISSUER", fake.issuer()),
        ("PUBLIC_URL", "https://verifyd.example"),
        ("CLIENT_ID", "verifyd"),
        ("GRANTS", "[{ value = \"ops\", scopes = [\"read\"] }]"),
    ] {
        bench.set(&format!("{KEY}{key}"), value);
    }
    assert_eq!(examined(&bench), (0, vec![]));

    // A warning each: checks run without it.
    let warns = |bench: &Bench, said: &str| {
        let (code, bad) = examined(bench);
        let [(part, found, _)] = &bad[..] else {
            panic!("{said}: {bad:?}")
        };
        assert_eq!((code, part.as_str()), (0, "oidc"), "{found}");
        assert!(found.contains(said), "{said}: {found}");
    };
    fake.set_down(true);
    warns(&bench, "the discovery document has the status 502");
    fake.set_down(false);
    fake.pads(256 * 1024);
    warns(&bench, "the answer is too long");
    fake.pads(0);
    fake.informs_at(Some("http://login.example/userinfo"));
    warns(&bench, "its userinfo_endpoint is no https address");
    fake.informs_at(None);
    bench.set(&format!("{KEY}ISSUER"), format!("{}/", fake.issuer()));
    warns(&bench, "both must be the same");
    bench.set(&format!("{KEY}ISSUER"), fake.issuer());
    bench.set(&format!("{KEY}CLIENT_SECRET_FILE"), "/nowhere");
    warns(&bench, "http.oidc.client_secret_file (/nowhere)");
}
