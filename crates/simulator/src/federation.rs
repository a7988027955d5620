//! The external issuer whose tokens the simulated apps trust, as a Kubernetes cluster would be.

use super::options::SimulatorError;
use super::tokens::Signer;
use serde::{Deserialize, Serialize};

/// The subject that every simulated app's federated credential names.
pub const FEDERATED_SUBJECT: &str = "system:serviceaccount:verifyd:worker";
/// The audience that every simulated app's federated credential names: Microsoft's recommendation.
pub const FEDERATED_AUDIENCE: &str = "api://AzureADTokenExchange";
/// How long an issued token is good, in seconds; the time of Kubernetes' projected tokens.
const LIFETIME: i64 = 3_600;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FederatedClaims {
    pub iss: String,
    pub sub: String,
    pub aud: String,
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
    pub jti: String,
}

/// The external issuer.
pub(crate) struct Federation {
    signer: Signer,
    pub issuer: String,
}

impl Federation {
    pub(crate) fn new(origin: &str) -> Result<Self, SimulatorError> {
        Ok(Self {
            signer: Signer::fresh()?,
            issuer: format!("{origin}/__simulator/federation"),
        })
    }

    /// A token for the subject, good from now (Unix time in seconds).
    pub(crate) fn issue(&self, subject: &str, now: i64) -> Result<String, SimulatorError> {
        self.signer.sign(&FederatedClaims {
            iss: self.issuer.clone(),
            sub: subject.to_owned(),
            aud: FEDERATED_AUDIENCE.to_owned(),
            iat: now,
            nbf: now,
            exp: now + LIFETIME,
            jti: uuid::Uuid::new_v4().to_string(),
        })
    }

    /// The claims, when this issuer has signed them.
    pub(crate) fn read(&self, token: &str) -> Option<FederatedClaims> {
        self.signer.read(token)
    }
}
