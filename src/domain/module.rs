//! Modules: what a connection is checked for, as data.

use super::names::text_enum;
use super::permission::RequiredPermission;
use super::reason::Reason;
use std::fmt;

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
        /// Values that cause a warning and no failure.
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

text_enum! {
    /// How granted permissions that no module needs appear in a report.
    #[derive(Default)]
    pub enum ExcessPolicy: "excess" {
        /// They are listed; the check passes.
        #[default]
        Info => "info",
        /// The check warns.
        Warn => "warn",
    }
}

/// A module: the permissions that it needs, and the calls that show that its services answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub key: String,
    pub title: String,
    pub excess: ExcessPolicy,
    pub permissions: Vec<RequiredPermission>,
    pub probes: Vec<Probe>,
    /// The file that it was read from; `None` for a module that is part of verifyd.
    pub file: Option<String>,
}

/// One problem in a module's file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModuleProblem {
    /// From 1.
    pub line: usize,
    /// Path of the field, e.g. `permissions[2].role`; empty for the file as a whole.
    pub field: String,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl fmt::Display for ModuleProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.line)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}
