//! Next steps lead where they can be taken: the owner's directory or the customer's.

use crate::microsoft::directory::{CLIENT, Directory, HEALTH, Reply, SERVICE_PRINCIPAL};
use crate::microsoft::fixture::{Found, provider, run, target};
use serde_json::{Value, json};

const OWNER: &str = "77777777-2222-4333-8444-555555555555";

fn principal(members: &Value) -> Reply {
    let mut body = json!({"id": SERVICE_PRINCIPAL, "accountEnabled": true});
    for (name, value) in members.as_object().unwrap() {
        body[name.as_str()] = value.clone();
    }
    Reply::json(200, &body)
}

fn url<'a>(found: &'a Found, check: &str, label: &str) -> &'a str {
    let steps = &found.check(check).next_steps;
    let step = steps.iter().find(|step| step.label == label);
    &step.unwrap_or_else(|| panic!("{label} in {steps:?}")).url
}

#[tokio::test]
async fn what_an_earlier_check_has_learnt_leads_a_failed_sign_in() {
    let directory = Directory::start(HEALTH).await;
    let credentials = |tenant: &str| {
        format!(
            "https://portal.example.com/{tenant}#view/Microsoft_AAD_RegisteredApps/ApplicationMenuBlade/~/Credentials/appId/{CLIENT}"
        )
    };
    let label = "Create a new secret, in the directory that owns the application";
    let expired = Reply::token_error(401, "invalid_client", 7_000_222);
    let provider = provider(&directory);
    let mut target = target("health_check");
    directory.answer("token", expired.clone());
    let found = run(&provider, &target).await;
    assert_eq!(
        url(&found, "provider.authentication", label),
        credentials("")
    );

    let owned = principal(&json!({"appOwnerOrganizationId": OWNER}));
    directory.answer("service_principal", owned);
    run(&provider, &target).await;
    directory.answer("token", expired);
    // So that no token is left to go on with.
    target.credential = crate::microsoft::fixture::secret("another-canary-value");
    let found = run(&provider, &target).await;
    assert_eq!(
        url(&found, "provider.authentication", label),
        credentials(&format!("{OWNER}/"))
    );
}

#[tokio::test]
async fn an_owner_that_is_no_id_never_becomes_part_of_an_address() {
    for owner in [json!("../evil"), json!(7), Value::Null, json!({"a": []})] {
        let directory = Directory::start(&["Organization.Read.All", "Application.Read.All"]).await;
        let reply = principal(&json!({"appOwnerOrganizationId": owner}));
        directory.answer("service_principal", reply);
        let found = run(&provider(&directory), &target("health_check")).await;
        assert!(found.0.healthy, "{owner}");
        let label = "Add the permission to the app registration, in the directory that owns the application";
        let url = url(&found, "permissions.directory_read_all", label);
        assert!(
            url.starts_with("https://portal.example.com/#view/"),
            "{url}"
        );
    }
}
