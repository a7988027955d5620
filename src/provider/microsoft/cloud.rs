//! The clouds of this installation, from validated configuration.

use super::settings::is_loopback;
use crate::domain::link::LinkBases;
use http::Uri;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use std::collections::{BTreeMap, BTreeSet};
use url::Url;

/// One cloud's base addresses.
#[derive(Clone, Debug)]
pub(super) struct Cloud {
    pub key: String,
    pub login: Url,
    pub graph: Url,
    pub portal: Url,
    /// Origin of `graph`, to build addresses without parsing.
    pub graph_origin: (Scheme, Authority),
}

/// Returns scheme, host and port for building requests; `None` for an address without a host.
pub(super) fn origin(url: &Url) -> Option<(Scheme, Authority)> {
    let parts = url.as_str().parse::<Uri>().ok()?.into_parts();
    Some((parts.scheme?, parts.authority?))
}

impl Cloud {
    /// `{login}/{tenant}/oauth2/v2.0/token`
    pub fn token_url(&self, tenant: uuid::Uuid) -> String {
        format!("{}/{tenant}/oauth2/v2.0/token", base(&self.login))
    }

    /// Builds an address on Graph. `None` when path and query are invalid.
    pub fn graph_uri(&self, path_and_query: String) -> Option<Uri> {
        let mut parts = Parts::default();
        let (scheme, authority) = self.graph_origin.clone();
        parts.scheme = Some(scheme);
        parts.authority = Some(authority);
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path_and_query).ok()?);
        Uri::from_parts(parts).ok()
    }

    /// `{graph}/.default`
    pub fn scope(&self) -> String {
        format!("{}/.default", base(&self.graph))
    }

    /// Returns base addresses for links, without a slash at the end.
    pub fn link_bases(&self) -> LinkBases {
        LinkBases {
            portal: base(&self.portal),
            login: base(&self.login),
            graph: base(&self.graph),
        }
    }
}

fn base(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// All clouds by key, and which one is meant when a connection names none.
#[derive(Clone, Debug)]
pub(super) struct Clouds {
    default: String,
    by_key: BTreeMap<String, Cloud>,
}

impl Clouds {
    /// `default` must be one of the keys.
    pub fn new(default: String, by_key: BTreeMap<String, Cloud>) -> Self {
        Self { default, by_key }
    }

    /// The cloud with this key; the default one for none.
    pub fn get(&self, key: Option<&str>) -> Option<&Cloud> {
        self.by_key.get(key.unwrap_or(&self.default))
    }

    /// Key of the default cloud.
    pub fn default_key(&self) -> &str {
        &self.default
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        self.by_key.keys().cloned().collect()
    }

    /// Hosts of logins and of Graph: whom the provider calls.
    pub fn hosts(&self) -> BTreeSet<String> {
        self.by_key
            .values()
            .flat_map(|cloud| [&cloud.login, &cloud.graph])
            .filter_map(|url| url.host_str().map(str::to_owned))
            .collect()
    }

    /// Hosts that were configured as loopback: the only ones that may have a non-global address.
    pub fn loopback_hosts(&self) -> BTreeSet<String> {
        self.by_key
            .values()
            .flat_map(|cloud| [&cloud.login, &cloud.graph])
            .filter(|url| is_loopback(url))
            .filter_map(|url| url.host_str().map(str::to_owned))
            .collect()
    }
}
