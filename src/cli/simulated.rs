//! The cloud and the connections of commands that start a simulator.

use crate::app::Services;
use crate::config::Settings;
use crate::domain::acknowledgement::{Actor, Surface};
use crate::domain::audit::Origin;
use crate::domain::credential::Credential;
use crate::domain::{ConnectionId, TenantId, WorkspaceId};
use crate::operations::OperationError;
use crate::operations::connections::{ConnectionRequest, add_connection};
use crate::provider::microsoft::CloudSettings;
use secrecy::SecretString;
use verifyd_simulator::{RunningSimulator, SIMULATED_SECRET, Scenario};

const CLOUD: &str = "simulated";
pub const WORKSPACE: WorkspaceId = WorkspaceId(1);

/// Makes the simulator one more cloud.
pub fn add_cloud(settings: &mut Settings, simulator: &RunningSimulator) {
    settings.microsoft.clouds.insert(
        CLOUD.to_owned(),
        CloudSettings {
            login: simulator.base_url.clone(),
            graph: simulator.base_url.clone(),
            portal: "https://entra.microsoft.com".to_owned(),
        },
    );
}

/// Creates a connection of the tenant with this number, which behaves as the scenario defines and signs in by
/// secret.
pub fn connection(number: u32, name: &str, scenario: Scenario) -> ConnectionRequest {
    ConnectionRequest {
        workspace_id: WORKSPACE,
        tenant_id: TenantId(i64::from(number)),
        provider: "microsoft".to_owned(),
        display_name: Some(name.to_owned()),
        entra_tenant_id: scenario.tenant_id(number),
        client_id: format!("5c000000-0000-4000-8000-c000{number:08}"),
        cloud: Some(CLOUD.to_owned()),
        module: Some(scenario.expectation().module.to_owned()),
        credential: Some(secret()),
        expires_at: None,
    }
}

/// The secret that every simulated app has.
pub fn secret() -> Credential {
    Credential::ClientSecret {
        secret: SecretString::from(SIMULATED_SECRET),
        client_id: None,
    }
}

/// Whoever sets the stage.
pub fn demo() -> Origin {
    let actor = Actor {
        surface: Surface::Cli,
        token_id: None,
        name: "demo".to_owned(),
    };
    actor.into()
}

/// Adds a connection.
pub async fn add(
    services: &Services,
    request: &ConnectionRequest,
) -> Result<ConnectionId, OperationError> {
    let (store, vault) = (services.store.as_ref(), services.vault.as_ref());
    add_connection(store, vault, &services.providers, request, &demo()).await
}
