//! Run, connection, credential, target and token of different tenants, and how each must end.

use verifyd::domain::Outcome;
use verifyd::domain::reason::Reason;
use verifyd_simulator::Scenario;

/// Who owns something: two tenants of one workspace, and one of another.
pub const OWNERS: [(i64, i64); 3] = [(1, 1), (1, 2), (2, 3)];
/// Every owner has a connection whose tokens are its own, and one whose tokens are a stranger's.
pub const TOKENS: [Scenario; 2] = [Scenario::Healthy, Scenario::IdentityMismatchToken];

pub fn entra(owner: usize, tokens: Scenario) -> String {
    tokens.tenant_id(u32::try_from(owner).unwrap() + 1)
}

/// One combination.
#[derive(Clone, Copy, Debug)]
pub struct Combination {
    pub run: usize,
    pub connection: usize,
    pub credential: usize,
    pub target: usize,
    pub tokens: Scenario,
}

impl Combination {
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for run in 0..OWNERS.len() {
            for connection in 0..OWNERS.len() {
                for credential in 0..OWNERS.len() {
                    for target in 0..OWNERS.len() {
                        for tokens in TOKENS {
                            all.push(Self {
                                run,
                                connection,
                                credential,
                                target,
                                tokens,
                            });
                        }
                    }
                }
            }
        }
        all
    }

    fn same_workspace(self) -> bool {
        OWNERS[self.run].0 == OWNERS[self.connection].0
    }

    /// How it must end; the prerequisites are tested in this order.
    pub fn expected(self) -> (Outcome, Option<Reason>) {
        let blocked = |reason| (Outcome::Blocked, Some(reason));
        if !self.same_workspace() {
            blocked(Reason::ConnectionWorkspaceMismatch)
        } else if self.run != self.connection {
            blocked(Reason::ConnectionTenantMismatch)
        } else if self.target != self.connection {
            blocked(Reason::TargetScopeMismatch)
        } else if self.credential != self.connection {
            blocked(Reason::CredentialUndecryptable)
        } else if self.tokens == Scenario::IdentityMismatchToken {
            (Outcome::Failed, Some(Reason::IdentityMismatch))
        } else {
            (Outcome::Succeeded, None)
        }
    }
}
