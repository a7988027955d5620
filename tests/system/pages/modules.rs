//! Modules, and what they would mean for the connections that a visitor may see.

use crate::api::scene::{Scene, bound};
use crate::pages::person::tenant;
use verifyd::domain::access::Scope;
use verifyd_simulator::Scenario;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_shown_for_the_connections_within_reach() {
    let scene = Scene::at_work().await;
    for (number, scenario) in [(1, Scenario::Healthy), (2, Scenario::PermissionMissing)] {
        let id = scene.add(number, scenario).await;
        scene.check(id).await;
    }
    scene.add(3, Scenario::Healthy).await;
    let disabled = scene.add(4, Scenario::Healthy).await;
    scene.world.disable(disabled).await;

    let operator = scene.operator().await;
    // What is granted and not needed is told by name on the page of a run that is well.
    let run = operator.page("/runs/1").await;
    assert!(run.contains("Granted and not needed: "));
    assert!(run.contains("5c0000a0-0000-4000-8000-000000000001/Records.1.Read"));
    let list = operator.page("/modules").await;
    for key in ["health_check", "intune", "conditional_access"] {
        assert!(list.contains(&format!("/modules/{key}/plan")), "{key}");
    }
    let address = "/modules/conditional_access/plan";
    let plan = operator.page(address).await;
    let count = |name: &str| {
        let (_, rest) = plan.split_once(&format!("<dt>{name}</dt><dd>")).unwrap();
        let shown = rest.split("</dd>").next().unwrap();
        // The verdicts lead to those that have them.
        let shown = shown.strip_suffix("</a>").unwrap_or(shown);
        shown.rsplit('>').next().unwrap().trim().to_owned()
    };
    let counts = [
        "Connections",
        "Would break",
        "Would work",
        "Unknown",
        "Disabled",
    ];
    assert_eq!(counts.map(count), ["3", "1", "1", "1", "1"]);
    assert!(plan.contains("missing <bdi class=\"code\">Policy.Read.All</bdi>"));
    assert!(plan.contains("Grant admin consent"));
    assert!(plan.contains("no inventory was read yet"));
    // What a permission is needed for, and nothing about the machine.
    assert!(plan.contains("no Conditional Access policy can be read"));

    let seen = |page: &str| -> Vec<i64> {
        let links = page.split("href=\"/connections/").skip(1);
        links
            .map(|l| l.split('"').next().unwrap().parse().unwrap())
            .collect()
    };
    assert_eq!(seen(&plan), [1, 2, 3]);
    for (verdict, ids) in [("breaks", 1), ("works", 1), ("unknown", 1)] {
        let page = operator.page(&format!("{address}?verdict={verdict}")).await;
        assert_eq!(seen(&page).len(), ids, "{verdict}");
        assert!(page.contains("Show all"), "{verdict}");
    }
    let reader = scene.person(&[Scope::Read], tenant(2)).await;
    let page = reader.page(address).await;
    assert_eq!(seen(&page), [2]);
    assert!(page.contains("<dt>Connections</dt><dd>1</dd>"));
    let stranger = scene.person(&[Scope::Read], bound(9, None)).await;
    let page = stranger.page(address).await;
    assert_eq!(seen(&page), Vec::<i64>::new());
    assert!(page.contains("No connection to compare"));

    assert_eq!(operator.get("/modules/nothing/plan").await.status(), 404);
    let odd = operator.get(&format!("{address}?after=x")).await;
    assert_eq!(odd.status(), 422);
    let page = operator.page(&format!("{address}?after=2")).await;
    assert_eq!(seen(&page), [3]);
}
