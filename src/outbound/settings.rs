//! The section `[outbound]`.

use secrecy::SecretString;
use serde::Deserialize;

/// The route of outbound calls. Loading fills empty keys from the environment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundSettings {
    /// Address of the proxy, with user and password; `none`, or empty, means no proxy.
    pub proxy: SecretString,
    /// Hosts that are called directly: names with all names below them, addresses, networks, each
    /// with a port or without; separated by commas.
    pub no_proxy: String,
}
