//! What this program was built from. `build.rs` finds it out.

use serde::Serialize;

/// A build. The same commit, compiler, profile and features give the same program.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BuildInfo {
    pub version: &'static str,
    /// `unknown` in a debug build, and where neither `VERIFYD_BUILD_COMMIT` nor git names it.
    pub commit: &'static str,
    /// The version of the compiler.
    pub rustc: &'static str,
    /// `release` or `debug`.
    pub profile: &'static str,
    pub features: &'static [&'static str],
}

/// This build.
pub const BUILD: BuildInfo = BuildInfo {
    version: env!("CARGO_PKG_VERSION"),
    commit: env!("VERIFYD_COMMIT"),
    rustc: env!("VERIFYD_RUSTC"),
    profile: env!("VERIFYD_PROFILE"),
    features: if cfg!(feature = "simulator") {
        &["simulator"]
    } else {
        &[]
    },
};
