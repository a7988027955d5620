//! A way to a server on loopback that can be slow, silent, frozen or cut, and that can stop at a chosen
//! statement: hold the request, hold its answer, or lose the answer.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Guards against hanging only.
const PATIENCE: Duration = Duration::from_secs(120);

/// Of what a connection has sent, so much is kept to look for a rule's texts.
const REMEMBERED: usize = 64 * 1024;

/// Begins every transaction of verifyd's: what was sent before it belongs to another one.
const BEGIN: &[u8] = b"BEGIN; SET LOCAL";

/// Begins the name of the worker as which a process tries at its start what it rolls back: the same statements, which no
/// rule means.
const PROBE: &[u8] = b"doctor-";

/// What happens to all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Each piece of each direction takes so much longer.
    Slow(Duration),
    /// Connections stay open, new ones are accepted, nothing passes. What was sent meanwhile
    /// arrives when the way is open again, as after a partition of the network.
    Silent,
    /// Connections are closed as soon as they are opened.
    Refused,
}

/// What happens at a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The request waits until `release`, or goes with its connection.
    HoldRequest,
    /// The server gets the request, its answer waits until `release`.
    HoldReply,
    /// The server gets the request; instead of its answer the connection ends.
    LoseReply,
}

/// Where to act: at `on`, when `after` was sent before it in the same transaction.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub after: &'static str,
    pub on: &'static str,
    pub act: Act,
    /// How often.
    pub times: u32,
}

impl Rule {
    /// Acts once, where this text is sent.
    pub fn once(act: Act, on: &'static str) -> Self {
        Self {
            after: "",
            on,
            act,
            times: 1,
        }
    }

    /// Acts only when this text was sent before in the same transaction.
    pub fn after(self, after: &'static str) -> Self {
        Self { after, ..self }
    }

    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }
}

struct Shared {
    target: AtomicU16,
    way: watch::Sender<Way>,
    /// Moved on to end every connection that is open then.
    cuts: watch::Sender<u64>,
    /// Moved on to let nothing pass any more on the connections that are open then.
    freezes: watch::Sender<u64>,
    /// Moved on to release what is held.
    releases: watch::Sender<u64>,
    fired: watch::Sender<u32>,
    rules: Mutex<Vec<Rule>>,
    /// Bytes that the server has sent.
    returned: AtomicU64,
}

/// The way. Its connections end with the test's runtime.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Forwards to a port on loopback.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target: AtomicU16::new(target),
            way: watch::Sender::new(Way::Open),
            cuts: watch::Sender::new(0),
            freezes: watch::Sender::new(0),
            releases: watch::Sender::new(0),
            fired: watch::Sender::new(0),
            rules: Mutex::default(),
            returned: AtomicU64::new(0),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared }
    }

    /// The same address by this way. Statements to PostgreSQL are then sent with their text every
    /// time, so that rules find it.
    pub async fn before(url: &str) -> (Self, String) {
        let mut url: url::Url = url.parse().unwrap();
        let proxy = Self::to(url.port().unwrap()).await;
        url.set_port(Some(proxy.port)).unwrap();
        if url.scheme() == "postgres" {
            url.set_query(Some("statement-cache-capacity=0"));
        }
        (proxy, url.into())
    }

    pub fn open(&self) {
        self.shared.way.send_replace(Way::Open);
    }

    pub fn slow(&self, delay: Duration) {
        self.shared.way.send_replace(Way::Slow(delay));
    }

    pub fn silence(&self) {
        self.shared.way.send_replace(Way::Silent);
    }

    /// Refuses new connections; those that are open stay.
    pub fn refuse(&self) {
        self.shared.way.send_replace(Way::Refused);
    }

    /// Resets the connections that are open now. What is held is lost.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|n| *n += 1);
    }

    /// Has nothing pass any more, in either direction, on the connections that are open now, as a
    /// firewall does that has forgotten them: no side notices it, not even when the other one
    /// closes. New connections work.
    pub fn freeze(&self) {
        self.shared.freezes.send_modify(|n| *n += 1);
    }

    /// New connections lead to another port, as after a failover; those that are open are reset.
    pub fn lead_to(&self, target: u16) {
        self.shared.target.store(target, Ordering::SeqCst);
        self.cut();
    }

    /// Adds a rule.
    pub fn at(&self, rule: Rule) {
        self.shared.rules.lock().unwrap().push(rule);
    }

    /// Lets go of what is held.
    pub fn release(&self) {
        self.shared.releases.send_modify(|n| *n += 1);
    }

    /// Bytes that have come from the server, over all connections.
    pub fn returned_bytes(&self) -> u64 {
        self.shared.returned.load(Ordering::SeqCst)
    }

    /// Waits until rules have acted so often.
    pub async fn has_acted(&self, times: u32) {
        let mut fired = self.shared.fired.subscribe();
        let waiting = fired.wait_for(|n| *n >= times);
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("the statement comes by")
            .unwrap();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((near, _)) = listener.accept().await {
        if *shared.way.borrow() == Way::Refused {
            let _ = near.set_zero_linger();
            continue;
        }
        let Ok(far) = TcpStream::connect(("127.0.0.1", shared.target.load(Ordering::SeqCst))).await
        else {
            continue;
        };
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        tokio::spawn(join(near, far, Arc::clone(&shared)));
    }
}

/// One connection, until either side ends it or it is cut.
async fn join(near: TcpStream, far: TcpStream, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    let mut freezes = shared.freezes.subscribe();
    let replies = Replies::default();
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let cut = tokio::select! {
        biased;
        _ = cuts.changed() => true,
        _ = freezes.changed() => cuts.changed().await.is_ok(),
        () = carry_requests(&mut near_in, &mut far_out, &shared, &replies) => false,
        () = carry_replies(&mut far_in, &mut near_out, &shared, &replies) => false,
    };
    if cut {
        // Closing then resets the connection.
        let _ = near_in.as_ref().set_zero_linger();
    }
}

/// What the requests' side asks of the replies' side.
#[derive(Default)]
struct Replies {
    lose: AtomicBool,
    hold: AtomicBool,
}

async fn carry_requests(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
    replies: &Replies,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut sent = Vec::new();
    let mut is_probe = false;
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        sent.extend_from_slice(&buffer[..n]);
        if let Some(at @ 1..) = last(&sent, BEGIN) {
            sent.drain(..at);
            is_probe = false;
        }
        is_probe |= first(&sent, PROBE).is_some();
        let excess = sent.len().saturating_sub(REMEMBERED);
        sent.drain(..excess);
        let before = sent.len().saturating_sub(n);
        if !is_probe && let Some(act) = due(shared, &sent, before) {
            sent.clear();
            // Before the test sees it.
            let mut releases = shared.releases.subscribe();
            match act {
                Act::LoseReply => replies.lose.store(true, Ordering::SeqCst),
                Act::HoldReply => replies.hold.store(true, Ordering::SeqCst),
                Act::HoldRequest => {}
            }
            shared.fired.send_modify(|n| *n += 1);
            if act == Act::HoldRequest {
                let _ = releases.changed().await;
            }
        }
        pass(shared).await;
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

async fn carry_replies(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
    replies: &Replies,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut releases = shared.releases.subscribe();
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        shared.returned.fetch_add(n as u64, Ordering::SeqCst);
        if replies.lose.load(Ordering::SeqCst) {
            return;
        }
        if replies.hold.swap(false, Ordering::SeqCst) {
            let _ = releases.changed().await;
        }
        releases.mark_unchanged();
        pass(shared).await;
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// Waits as the way demands.
async fn pass(shared: &Shared) {
    let way = *shared.way.borrow();
    match way {
        Way::Open | Way::Refused => {}
        Way::Slow(delay) => tokio::time::sleep(delay).await,
        Way::Silent => {
            let mut way = shared.way.subscribe();
            let _ = way.wait_for(|way| *way != Way::Silent).await;
        }
    }
}

/// What the piece that comes behind the first `before` bytes of `sent` is due. A rule that was added since does not act on
/// what had been sent.
fn due(shared: &Shared, sent: &[u8], before: usize) -> Option<Act> {
    let mut rules = shared.rules.lock().unwrap();
    let found = rules.iter_mut().find(|rule| {
        // Part of the text may have come with the piece before.
        let piece = (before + 1).saturating_sub(rule.on.len());
        rule.times > 0
            && first(sent, rule.after.as_bytes())
                .is_some_and(|at| first(&sent[at.max(piece)..], rule.on.as_bytes()).is_some())
    })?;
    found.times -= 1;
    Some(found.act)
}

fn first(text: &[u8], wanted: &[u8]) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    text.windows(wanted.len()).position(|part| part == wanted)
}

fn last(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).rposition(|part| part == wanted)
}
