//! Cryptography of the JSON Web Tokens that are sent and received.

/// `jsonwebtoken` takes its cryptography from a process-wide default and panics when the crate
/// features of the whole build leave it undecided. Naming it here makes that impossible; when
/// another part of the process has named one already, that one stays.
pub(crate) fn install_crypto() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}
