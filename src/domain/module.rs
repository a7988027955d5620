//! Modules: what a connection is checked for, as data.

use super::permission::RequiredPermission;
use super::reason::Reason;

/// What a probe expects of a successful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// A JSON object.
    Object,
    /// A member `value` that is a list; its length does not matter.
    List,
    /// The same, with at least one item.
    NotEmpty,
    /// A member with one of these values.
    Member {
        name: String,
        one_of: Vec<String>,
        /// Values that are worth a warning and no failure.
        tolerated: Vec<String>,
    },
}

/// One GET that shows whether a service answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Key of the check, dotted.
    pub key: String,
    pub title: String,
    /// Below the base address of the provider's main API.
    pub path: String,
    /// Without the question mark; may be empty.
    pub query: String,
    /// Key of a required permission of the same module.
    pub permission: String,
    pub blocking: bool,
    pub expect: Expect,
    /// Why the check fails where the answer is not the expected one.
    pub reason: Reason,
}

/// A module: the permissions that it needs, and the calls that show that its services answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub key: String,
    pub title: String,
    pub permissions: Vec<RequiredPermission>,
    pub probes: Vec<Probe>,
}
