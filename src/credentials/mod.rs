//! Credentials at rest: encryption, the key ring, and Laravel's payloads.
//!
//! A stored payload is one of two forms:
//!
//! - verifyd's own envelope, `vfd1.<key id>.<nonce>.<ciphertext>`: AES-256-GCM, bound to
//!   workspace, tenant and connection. Moved to another row it does not open ([`envelope`]).
//! - what Laravel's `Crypt` wrote, read-only ([`laravel`]). Laravel binds it to nothing, so a copied
//!   row opens wherever it is put; sealing it again (`rotate-keys`) ends that.

mod certificate_file;
pub(crate) mod envelope;
mod key_file;
mod key_ring;
mod laravel;
mod pem;
mod php;
mod plaintext;
mod settings;
mod vault;

pub use certificate_file::{FileError, NamedFile, credential_from_files};
pub use key_ring::{KeyError, KeyRing};
pub use pem::{Validity, credential_from_pem, validity};
pub use settings::{CredentialsSettings, KeyEntry};
pub use vault::{KeyRingVault, open_existing_vault, open_vault};
