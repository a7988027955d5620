//! Calls to the outside: what every adapter that makes them must hold to.
//!
//! A leaf beside the adapters: they use it, it uses none of them.

pub mod guard;
pub mod retry_after;

/// The innermost cause, whose text names what really happened.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The causes of an error, outermost first, itself not counted.
pub fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| cause.source())
}

/// Whether TLS failed: a certificate that is not trusted, or a handshake that broke.
pub fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.is::<rustls::Error>()
            || cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(io_holds_tls)
    })
}

/// An I/O error hides what it was made of from the chain of causes, and may be made of another.
fn io_holds_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        inner.is::<rustls::Error>()
            || inner
                .downcast_ref::<std::io::Error>()
                .is_some_and(io_holds_tls)
    })
}
