//! Assigns the listener's connection slots, and decides which connection is closed for another one.
//!
//! A connection *waits* from its accept, and from the end of each answer, until a complete request has
//! arrived. Only a waiting connection can be closed: its peer loses nothing but the time to connect again, the rest of an
//! answer that it is slow to read, or the answer to a request whose body it still sends though no more of it is needed.
//! Connections beyond the limit for which none can be closed go to a small reserve, where only the health
//! endpoints answer. There, a connection whose answer needs the database waits until that is sent. So no number of
//! slow connections, and no slow database, keeps a liveness probe from its answer.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// Connections beyond the limit, on which only the health endpoints answer.
pub const RESERVED: usize = 16;

/// The value of [`Connection::waits`] of a connection whose request is being answered.
const WORKING: u64 = 0;

/// Returns the address that is counted. A client with one IPv6 address usually has a network of 64 bits.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
        },
    }
}

/// All open connections.
#[derive(Debug)]
pub struct ConnectionSlots {
    most: usize,
    max_per_peer: usize,
    state: Mutex<State>,
    ticks: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: HashMap<u64, Arc<Connection>>,
    ordinary: usize,
    /// Ordinary ones of each network.
    of_peer: HashMap<IpAddr, usize>,
}

/// One open connection.
#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    reserved: bool,
    /// Since when it waits for a whole request, in ticks; or [`WORKING`].
    waits: AtomicU64,
    /// Whether it waits also while its request is being answered.
    yields: AtomicBool,
    evicted: CancellationToken,
}

/// The slot of one connection. It is free again when this is dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    id: u64,
    slots: Arc<ConnectionSlots>,
    connection: Arc<Connection>,
}

impl ConnectionSlots {
    pub fn new(most: usize, max_per_peer: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            max_per_peer,
            state: Mutex::default(),
            ticks: AtomicU64::new(WORKING + 1),
        })
    }

    /// Takes a slot for a connection of this peer. When the peer has all slots that it may have, its oldest
    /// waiting connection is closed; when there are no more slots, that of the peer with the most. `None`:
    /// every connection is being answered, and the reserve is used up, too.
    ///
    /// Counts what is closed or refused by the limit that was reached.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Option<ConnectionSlot> {
        let peer = network(peer);
        let mut state = self.state.lock();
        let own = state.of_peer.get(&peer).copied().unwrap_or_default();
        let limit = if own >= self.max_per_peer {
            "peer"
        } else {
            "all"
        };
        let room = if own >= self.max_per_peer {
            state.evict(limit, |c| !c.reserved && c.peer == peer)
        } else if state.ordinary >= self.most {
            let greedy = state.busiest_network();
            state.evict(limit, |c| !c.reserved && Some(c.peer) == greedy)
        } else {
            true
        };
        let in_reserve = state.open.len() - state.ordinary;
        if !room && in_reserve >= RESERVED && !state.evict("reserve", |c| c.reserved) {
            metrics::counter!("verifyd_http_connections_refused_total", "limit" => limit)
                .increment(1);
            return None;
        }
        let id = state.next;
        state.next += 1;
        let connection = Arc::new(Connection {
            peer,
            reserved: !room,
            waits: AtomicU64::new(self.tick()),
            yields: AtomicBool::new(false),
            evicted: CancellationToken::new(),
        });
        if room {
            state.ordinary += 1;
            *state.of_peer.entry(peer).or_default() += 1;
        }
        state.open.insert(id, Arc::clone(&connection));
        drop(state);
        Some(ConnectionSlot {
            id,
            slots: Arc::clone(self),
            connection,
        })
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }
}

impl State {
    /// Returns the network with the most ordinary connections that wait.
    fn busiest_network(&self) -> Option<IpAddr> {
        let mut waiting: HashMap<IpAddr, usize> = HashMap::new();
        for connection in self.open.values() {
            if !connection.reserved && connection.waits.load(Ordering::Relaxed) != WORKING {
                *waiting.entry(connection.peer).or_default() += 1;
            }
        }
        let most = waiting.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(peer, _)| peer)
    }

    /// Closes the oldest of these that waits, because of this limit. False: none does.
    fn evict(&mut self, limit: &'static str, of: impl Fn(&Connection) -> bool) -> bool {
        let waiting = self.open.iter().filter(|(_, c)| of(c));
        let waiting = waiting.filter_map(|(id, c)| match c.waits.load(Ordering::Relaxed) {
            WORKING => None,
            since => Some((since, *id)),
        });
        let Some((_, oldest)) = waiting.min() else {
            return false;
        };
        if let Some(connection) = self.remove(oldest) {
            connection.evicted.cancel();
            metrics::counter!("verifyd_http_connections_evicted_total", "limit" => limit)
                .increment(1);
        }
        true
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Connection>> {
        let connection = self.open.remove(&id)?;
        if !connection.reserved {
            self.ordinary -= 1;
            if let Some(count) = self.of_peer.get_mut(&connection.peer) {
                *count -= 1;
                if *count == 0 {
                    self.of_peer.remove(&connection.peer);
                }
            }
        }
        Some(connection)
    }
}

impl ConnectionSlot {
    /// Whether only the health endpoints answer here.
    pub fn is_reserved(&self) -> bool {
        self.connection.reserved
    }

    /// Ends when the connection is to be closed for another one.
    pub async fn evicted(&self) {
        self.connection.evicted.cancelled().await;
    }

    /// A request begins. In the reserve it is sure of its answer only if that `is_immediate`.
    pub fn begins(&self, is_immediate: bool) {
        let yields = self.connection.reserved && !is_immediate;
        self.connection.yields.store(yields, Ordering::Relaxed);
    }

    /// A whole request has arrived.
    pub fn works(&self) {
        if !self.connection.yields.load(Ordering::Relaxed) {
            self.connection.waits.store(WORKING, Ordering::Relaxed);
        }
    }

    /// The answer is out: it waits for the next request.
    pub fn waits(&self) {
        let now = self.slots.tick();
        self.connection.waits.store(now, Ordering::Relaxed);
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.state.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn is_closed(slot: &ConnectionSlot) -> bool {
        slot.connection.evicted.is_cancelled()
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn the_oldest_that_waits_makes_room_in_its_own_network_first() {
        let slots = ConnectionSlots::new(4, 2);
        let one = slots.take(peer(1)).unwrap();
        let two = slots.take(peer(1)).unwrap();
        let other = slots.take(peer(2)).unwrap();
        one.works();
        // The peer has all it may have: its own that waits goes, though another one is as old.
        let three = slots.take(peer(1)).unwrap();
        assert!(is_closed(&two) && !is_closed(&one) && !is_closed(&other));
        // An answer that is out makes its connection the youngest.
        one.waits();
        let four = slots.take(peer(1)).unwrap();
        assert!(is_closed(&three) && !is_closed(&one) && !is_closed(&four));
    }

    #[test]
    fn when_all_places_are_taken_the_peer_with_the_most_gives_one() {
        let slots = ConnectionSlots::new(3, 3);
        let lone = slots.take(peer(1)).unwrap();
        let many = [slots.take(peer(2)).unwrap(), slots.take(peer(2)).unwrap()];
        let new = slots.take(peer(3)).unwrap();
        assert!(!new.is_reserved());
        assert!(!is_closed(&lone), "it is older, and alone");
        assert!(is_closed(&many[0]) && !is_closed(&many[1]));
    }

    #[test]
    fn when_all_are_being_answered_the_reserve_is_for_health() {
        let slots = ConnectionSlots::new(2, 2);
        let busy = [slots.take(peer(1)).unwrap(), slots.take(peer(1)).unwrap()];
        busy.iter().for_each(ConnectionSlot::works);
        let reserve: Vec<ConnectionSlot> = (0..RESERVED)
            .map(|_| slots.take(peer(2)).unwrap())
            .collect();
        assert!(reserve.iter().all(ConnectionSlot::is_reserved));
        // A further one takes the slot of the oldest that has sent no request.
        let probe = slots.take(peer(9)).unwrap();
        assert!(probe.is_reserved() && is_closed(&reserve[0]));
        // So does one while others there wait for the database.
        for slot in &reserve {
            slot.begins(false);
            slot.works();
        }
        let second = slots.take(peer(9)).unwrap();
        assert!(second.is_reserved() && is_closed(&reserve[1]));
        for slot in reserve.iter().chain([&probe, &second]) {
            slot.begins(true);
            slot.works();
        }
        assert!(
            slots.take(peer(9)).is_none(),
            "everything is being answered"
        );
        drop(busy);
        let ordinary = slots.take(peer(9)).unwrap();
        assert!(!ordinary.is_reserved(), "slots that are free are used");
        drop((reserve, probe, second, ordinary));
        let state = slots.state.lock();
        assert_eq!((state.open.len(), state.ordinary), (0, 0));
        assert!(state.of_peer.is_empty());
    }
}
