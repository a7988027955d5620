//! Ports for servers that a test starts, and starts again.

use std::net::TcpListener;

/// Returns a free port of loopback, below the range that the system gives to outgoing connections: while the server
/// is down, none of them takes its port.
pub fn free_port() -> u16 {
    loop {
        let [high, low, ..] = *uuid::Uuid::new_v4().as_bytes();
        let port = 20_000 + u16::from_be_bytes([high, low]) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
