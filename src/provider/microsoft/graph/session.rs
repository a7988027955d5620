//! A session with Graph during one check.

use super::application::{Application, Offered};
use super::paging;
use super::responses::ServicePrincipal;
use super::responses::{Next, Page, parse};
use super::roles::{GrantCache, KnownPrincipal, PrincipalCache, PrincipalKey, RoleCache};
use crate::domain::Reason;
use crate::domain::report::{Evidence, EvidenceKind};
use crate::ports::clock::Clock;
use crate::ports::provider::{Disposition, Target};
use crate::provider::microsoft::cloud::Cloud;
use crate::provider::microsoft::fault::Fault;
use crate::provider::microsoft::graph_error::{self, EXPIRED_PAGE};
use crate::provider::microsoft::http::{
    Answer, Body, Caller, Intermediary, Login, Payload, Request, Scope,
};
use crate::provider::microsoft::limiter::{LimitedRequests, Limiters, WaitingCheck};
use crate::provider::microsoft::sign_in::{
    AccessToken, Material, Obtained, TokenCache, TokenKey, request_token,
};
use http::Uri;
use moka::future::Cache;
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::Mutex;
use uuid::Uuid;

/// Offers of resources, by (cloud, directory, app id of the resource).
pub(in super::super) type OfferCache = Cache<(String, Uuid, Uuid), Arc<Offered>>;

/// Registrations by (cloud, application, directory that owns it).
pub(in super::super) type ApplicationCache = Cache<PrincipalKey, Arc<Application>>;

/// Registrations that could not be read.
pub(in super::super) type UnreadableCache = Cache<PrincipalKey, ()>;

/// Pages of one list that are read: a check takes seconds, not minutes.
const MAX_PAGES: usize = 20;

/// State that all sessions share.
pub(in super::super) struct Shared {
    pub caller: Caller,
    pub limiters: Limiters,
    pub tokens: TokenCache,
    pub roles: RoleCache,
    pub principals: PrincipalCache,
    pub grants: GrantCache,
    /// Offers of resources, for explanations.
    pub offers: OfferCache,
    /// Registrations that were read recently.
    pub applications: ApplicationCache,
    /// Registrations that could not be read, and until when they are not read again.
    pub unreadable: UnreadableCache,
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("caller", &self.caller)
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// Signed in to one directory's Graph.
pub(in super::super) struct Session<'a> {
    shared: &'a Shared,
    target: &'a Target,
    cloud: &'a Cloud,
    tenant: Uuid,
    client_id: Uuid,
    material: Material,
    key: TokenKey,
    limited: LimitedRequests,
    state: Mutex<State>,
}

struct State {
    obtained: Obtained,
    /// Whether a token was replaced, which is done at most once in a check.
    renewed: bool,
    /// Why a token that Graph does not accept could not be replaced.
    sign_in_fault: Option<Fault>,
}

impl<'a> Session<'a> {
    /// Signs in, or takes the token that an earlier check got.
    pub async fn open(
        shared: &'a Shared,
        target: &'a Target,
        cloud: &'a Cloud,
        tenant: Uuid,
        client_id: Uuid,
    ) -> Result<Self, Fault> {
        let material =
            Material::load(&target.credential, target.deadline, shared.clock.now()).await?;
        let key = TokenKey::new(target.connection.id, &material, cloud, tenant, client_id);
        let obtained = obtain(shared, target, &key, &material).await?;
        let check = WaitingCheck {
            id: target.correlation_id,
            tenant: target.connection.tenant_id,
            is_repeated: target.is_repeated,
        };
        let limiters = &shared.limiters;
        let limited = limiters.requests(&cloud.key, client_id, tenant, check);
        Ok(Self {
            shared,
            target,
            cloud,
            tenant,
            client_id,
            material,
            key,
            limited: limited.await,
            state: Mutex::new(State {
                obtained,
                renewed: false,
                sign_in_fault: None,
            }),
        })
    }

    /// Returns the evidence about the credential that a report may contain.
    pub fn credential_evidence(&self) -> Vec<Evidence> {
        self.material.evidence()
    }

    /// Has its requests follow those of the check that it explains something for.
    pub fn continue_check(&self) {
        self.limited.begin();
    }

    /// Notes that its check has ended.
    pub fn ended(&self, disposition: Disposition) {
        self.limited.ended(disposition);
    }

    pub fn tenant(&self) -> Uuid {
        self.tenant
    }

    pub fn client_id(&self) -> Uuid {
        self.client_id
    }

    pub fn cloud_key(&self) -> &str {
        &self.cloud.key
    }

    pub fn roles(&self) -> &RoleCache {
        &self.shared.roles
    }

    fn principal_key(&self) -> PrincipalKey {
        (self.cloud.key.clone(), self.tenant, self.client_id)
    }

    /// Returns the application's service principal as an earlier check read it. Requests by its id need not
    /// wait for the answer that confirms it, but have to be repeated when that differs.
    pub async fn expected_principal(&self) -> Option<KnownPrincipal> {
        self.shared.principals.get(&self.principal_key()).await
    }

    pub async fn expect_principal(&self, read: &ServicePrincipal) {
        self.shared
            .principals
            .insert(self.principal_key(), read.into())
            .await;
    }

    /// An address on Graph, of a path with its query.
    pub fn uri(&self, path_and_query: String) -> Result<Uri, Fault> {
        self.cloud
            .graph_uri(path_and_query)
            .ok_or_else(|| Fault::new(Reason::RequestMalformed))
    }

    /// The token in use.
    pub async fn token(&self) -> Arc<AccessToken> {
        self.state.lock().await.obtained.token.clone()
    }

    /// Why signing in again failed, if it was needed and did.
    pub async fn sign_in_fault(&self) -> Option<Fault> {
        self.state.lock().await.sign_in_fault.clone()
    }

    /// Replaces a token from an earlier check, because its claims differ from other answers: only tokens that
    /// are issued after a grant contain it.
    ///
    /// Returns true when there is another token now.
    pub async fn renew_if_cached(&self) -> bool {
        let used = self.token().await;
        self.renew(&used, false).await.is_some()
    }

    /// Replaces the token, however new it is: it was issued before what it has to carry.
    pub async fn renew_again(&self) {
        self.state.lock().await.renewed = false;
        let used = self.token().await;
        self.renew(&used, true).await;
    }

    /// Whether the token was issued for this check.
    pub async fn is_token_fresh(&self) -> bool {
        self.state.lock().await.obtained.fresh
    }

    /// Returns the answer. A token that Graph does not accept is replaced once; so is one from an earlier
    /// check when Graph refuses the call, which may have been allowed since.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        call: &'static str,
        uri: Uri,
    ) -> Result<T, Fault> {
        self.read(call, uri, parse).await?
    }

    /// Returns the answer as it was received.
    pub(super) async fn get_body(&self, call: &'static str, uri: Uri) -> Result<Body, Fault> {
        self.read(call, uri, Some).await
    }

    /// Returns the answer to a request that only explains: no token is replaced for it.
    pub(super) async fn get_quietly<T: DeserializeOwned>(
        &self,
        call: &'static str,
        uri: Uri,
    ) -> Result<T, Fault> {
        let token = self.token().await;
        self.get_with(call, &uri, &token, parse).await?
    }

    pub(super) fn offers(&self) -> &OfferCache {
        &self.shared.offers
    }

    async fn read<T>(
        &self,
        call: &'static str,
        uri: Uri,
        read: fn(Body) -> Option<T>,
    ) -> Result<T, Fault> {
        let token = self.token().await;
        let fault = match self.get_with(call, &uri, &token, read).await {
            Err(fault) if is_rejection(&fault) || is_refusal(&fault) => fault,
            other => return other,
        };
        let rejected = is_rejection(&fault);
        let Some(fresh) = self.renew(&token, rejected).await else {
            return Err(fault);
        };
        let result = self.get_with(call, &uri, &fresh, read).await;
        if let Err(fault) = &result
            && is_rejection(fault)
        {
            // The next check gets another token.
            self.shared.tokens.reject(&self.key, &fresh).await;
        }
        result
    }

    /// Reads all pages of a list, from the first one on, whose address is `start`. A link to the next page is
    /// followed as given, but only to Graph itself, and never twice. A list whose links have expired is read
    /// from its beginning, once.
    pub(super) async fn pages<T: DeserializeOwned>(
        &self,
        call: &'static str,
        start: &Uri,
        first: Page<T>,
    ) -> Result<Vec<T>, Fault> {
        let restarted = match self.pages_after(call, start, first).await {
            Err(fault) if fault.has_code(EXPIRED_PAGE) => self.get(call, start.clone()).await?,
            other => return other,
        };
        self.pages_after(call, start, restarted).await
    }

    async fn pages_after<T: DeserializeOwned>(
        &self,
        call: &'static str,
        start: &Uri,
        first: Page<T>,
    ) -> Result<Vec<T>, Fault> {
        let Page {
            mut items,
            mut next,
        } = first;
        let mut here = paging::address(start).map_err(|reason| self.graph_fault(reason))?;
        let mut seen = HashSet::from([here.clone()]);
        loop {
            let url = match &next {
                Next::None => return Ok(items),
                Next::Link(link) => paging::next(link, &here, &self.cloud.graph),
                Next::Odd => Err(Reason::ResponseInvalid),
            };
            let url = url.map_err(|reason| self.graph_fault(reason))?;
            let reason = match seen.len() {
                _ if seen.contains(&url) => Some(Reason::PagingLoop),
                pages if pages == MAX_PAGES => Some(Reason::ResponseTooLarge),
                _ => None,
            };
            if let Some(reason) = reason {
                return Err(self
                    .graph_fault(reason)
                    .with(EvidenceKind::Count, seen.len()));
            }
            let uri = url.as_str().parse();
            let uri = uri.map_err(|_| self.graph_fault(Reason::ResponseInvalid))?;
            let mut page: Page<T> = self.get(call, uri).await?;
            items.append(&mut page.items);
            next = page.next;
            seen.insert(url.clone());
            here = url;
        }
    }

    pub(super) fn known_grants(&self) -> &GrantCache {
        &self.shared.grants
    }

    fn graph_fault(&self, reason: Reason) -> Fault {
        Fault::new(reason).with_some(EvidenceKind::Host, self.cloud.graph.host_str())
    }

    async fn get_with<T>(
        &self,
        call: &'static str,
        uri: &Uri,
        token: &AccessToken,
        read: fn(Body) -> Option<T>,
    ) -> Result<T, Fault> {
        let request = || {
            Ok(Request {
                uri: uri.clone(),
                payload: Payload::Bearer(token.authorization()),
            })
        };
        self.shared
            .caller
            .call(
                scope(self.target, call, Some(&self.limited)),
                request,
                |answer| judge(answer, read),
            )
            .await
    }

    /// Returns a token other than `used`; `None` when there is none. A token that was issued for this check
    /// is replaced only when Graph rejected it.
    async fn renew(&self, used: &Arc<AccessToken>, rejected: bool) -> Option<Arc<AccessToken>> {
        let mut state = self.state.lock().await;
        if !Arc::ptr_eq(&state.obtained.token, used) {
            return Some(state.obtained.token.clone());
        }
        if state.renewed || (state.obtained.fresh && !rejected) {
            return None;
        }
        state.renewed = true;
        self.shared.tokens.reject(&self.key, used).await;
        match obtain(self.shared, self.target, &self.key, &self.material).await {
            Ok(obtained) => {
                state.obtained = obtained;
                Some(state.obtained.token.clone())
            }
            Err(fault) => {
                // A mere doubt about a token that works must not fail the sign-in.
                if rejected || !fault.is_transient() {
                    state.sign_in_fault = Some(fault);
                }
                None
            }
        }
    }
}

/// Returns whether Graph has rejected the token; a proxy's own 401 says nothing about it.
fn is_rejection(fault: &Fault) -> bool {
    fault.status == Some(401) && fault.reason != Reason::ProxyRefused
}

fn is_refusal(fault: &Fault) -> bool {
    matches!(
        fault.reason,
        Reason::PermissionDenied
            | Reason::ServicePrincipalMissing
            | Reason::ConditionalAccessBlocked
    )
}

fn scope<'a>(
    target: &'a Target,
    call: &'static str,
    limited: Option<&'a LimitedRequests>,
) -> Scope<'a> {
    Scope {
        call,
        deadline: target.deadline,
        correlation_id: target.correlation_id,
        calls: &target.calls,
        limited,
    }
}

async fn obtain(
    shared: &Shared,
    target: &Target,
    key: &TokenKey,
    material: &Material,
) -> Result<Obtained, Fault> {
    let request = || {
        request_token(
            &shared.caller,
            scope(target, "token", None),
            shared.clock.as_ref(),
            key,
            material,
        )
    };
    // On the heap: each of the many requests of a check would hold it, and without optimization its stack would overflow.
    Box::pin(shared.tokens.obtain(key, target.deadline, request)).await
}

/// Somebody in between has answered.
fn refused_on_the_way(answer: &Answer, intermediary: Intermediary) -> Fault {
    let (reason, retry) = intermediary.meaning();
    let mut fault = Fault::new(reason)
        .status(answer.status)
        .retry(retry, answer.retry_after);
    if intermediary == Intermediary::CannotReach {
        fault.remark = Some(Intermediary::CANNOT_REACH.into());
    }
    fault
}

fn judge<T>(answer: Answer, read: fn(Body) -> Option<T>) -> Result<T, Fault> {
    let status = answer.status;
    if !(200..300).contains(&status) {
        let object = answer.object();
        if !answer.challenged
            && !graph_error::is_graphs(object.as_ref())
            && let Some(intermediary) = answer.intermediary()
        {
            return Err(refused_on_the_way(&answer, intermediary));
        }
        if status == 401 && !answer.challenged && !graph_error::is_graphs(object.as_ref()) {
            // Graph answers in its own form, or without a body.
            let is_foreign = match answer.login {
                Login::Other => true,
                Login::None => answer.has_body(),
                Login::Token => false,
            };
            if is_foreign {
                return Err(graph_error::foreign_login(status));
            }
        }
        let fault = graph_error::fault(
            status,
            object.as_ref(),
            answer.retry_after,
            answer.challenged,
            // It also answers without a body.
            !answer.has_body() && answer.author.is_microsoft(),
        );
        let is_known = fault.has(EvidenceKind::RequestId);
        let request_id = answer.request_id.filter(|_| !is_known);
        return Err(fault.with_some(EvidenceKind::RequestId, request_id));
    }
    if let Some(intermediary) = answer.page() {
        return Err(refused_on_the_way(&answer, intermediary));
    }
    answer
        .body
        .and_then(read)
        .ok_or_else(|| Fault::invalid(status))
}
