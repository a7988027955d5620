//! One exchange: a request and the head of its answer. The request is sent again where that is certainly
//! safe.

pub use super::pooled::AnswerBody;

use super::connect::Connector;
use super::failure::{Failure, FailureKind};
use super::pool::Pool;
use super::pooled::Message;
use super::proxy::Proxy;
use http::{Response, Uri, Version};
use rand::Rng as _;
use std::sync::Arc;
use std::time::Duration;

/// Largest number of times that one call is sent again.
const MAX_RESENDS: u32 = 10;

/// How often after a connection was lost that no other request had been sent on: a server that hangs up
/// on the request itself will do so again.
const MAX_LOST_EXCLUSIVE: u32 = 2;

/// Number of tries on a shared connection; further ones use a connection of their own, whose streams nobody
/// else uses up.
const SHARED_RESENDS: u32 = 3;

/// Before a request is sent again that was often lost.
const PAUSE: Duration = Duration::from_millis(5);

/// When a request is sent again although it is unknown what the peer did with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// Only when the peer has certainly not begun with it.
    NotProcessed,
    /// Also when a connection was lost that another request had used before: peers close those while nothing is under
    /// way. It is then sent on a fresh one.
    LostReused,
    /// Also when the connection was lost: doing it twice is the same as doing it once.
    Lost,
}

/// Which connection a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    Allowed,
    /// One of its own.
    Never,
}

/// How often a call was sent again. One for all attempts of a call.
#[derive(Debug, Default)]
pub struct Resends {
    all: u32,
    lost_exclusive: u32,
}

impl Resends {
    /// Whether it is sent again after this; waits when it was lost often.
    async fn take(&mut self, kind: FailureKind, rule: Resend, was_exclusive: bool) -> bool {
        let is_safe = match kind {
            FailureKind::NotProcessed => true,
            FailureKind::Lost => {
                rule == Resend::LostReused && !was_exclusive
                    || rule == Resend::Lost
                        && !(was_exclusive && self.lost_exclusive >= MAX_LOST_EXCLUSIVE)
            }
            _ => false,
        };
        if !is_safe || self.all >= MAX_RESENDS {
            return false;
        }
        self.all += 1;
        self.lost_exclusive += u32::from(was_exclusive && kind == FailureKind::Lost);
        tracing::trace!(resend = self.all, cause = %kind, "request sent again on another connection");
        if self.all > SHARED_RESENDS {
            let factor = 1 << (self.all - SHARED_RESENDS - 1);
            let chance = rand::rng().random_range(1.0..2.0);
            tokio::time::sleep((PAUSE * factor).mul_f64(chance)).await;
        }
        true
    }
}

/// The HTTP client. It follows no redirect, requests no compression and reads no environment.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(connector: Connector) -> Self {
        Self {
            pool: Pool::new(connector),
        }
    }

    /// The proxy that a call to this address goes through.
    pub fn proxy(&self, uri: &Uri) -> Option<&Proxy> {
        self.pool.connector().proxy(uri)
    }

    /// Returns whether a request is sent again whose answer ended in its body. Only over HTTP/2, where a
    /// connection ends for reasons that other requests cause.
    pub async fn resends_broken(answer: Version, kind: FailureKind, resends: &mut Resends) -> bool {
        answer == Version::HTTP_2 && resends.take(kind, Resend::Lost, false).await
    }

    /// Sends the request, again where `rule` allows it, and returns the head of the answer.
    pub async fn send(
        &self,
        request: Message,
        rule: Resend,
        reuse: Reuse,
        resends: &mut Resends,
    ) -> Result<Response<AnswerBody>, Failure> {
        let uri = request.uri();
        self.pool.connector().admit(uri)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(FailureKind::AddressRefused.into());
        };
        let origin = (scheme.clone(), authority.clone());
        let proxy = self.proxy(uri).map(ToString::to_string);
        let mut may_reuse = reuse == Reuse::Allowed;
        loop {
            let is_shared = may_reuse && resends.all <= SHARED_RESENDS;
            let lease = match is_shared {
                true => self.pool.lease(&origin).await?,
                false => self.pool.fresh(&origin).await?,
            };
            let is_exclusive = lease.is_untouched();
            let kind = match lease.send(request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(kind) => kind,
            };
            if !resends.take(kind, rule, is_exclusive).await {
                return Err(Failure { kind, proxy });
            }
            // Other idle connections may be closed, too.
            may_reuse &= !(rule == Resend::LostReused && kind == FailureKind::Lost);
        }
    }
}
