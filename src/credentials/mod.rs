//! Credentials at rest: encryption, the key ring, and Laravel's payloads.
