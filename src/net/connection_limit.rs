//! Limits the number of connections, and closes an old one in favour of a new one.
//!
//! If a full listener made newcomers wait, clients that connect and send nothing could block it. So every
//! connection is admitted, and if there are too many, one is closed: of the peer with the most connections,
//! the oldest. A peer with few connections is not pushed out by one with many. Where all have the same peer
//! (on one machine, for example), the oldest connection is one that has sent no request yet, or whose client
//! does not read the answer.
//!
//! Connections that have sent no request yet (silent) and those being served have separate limits: silent
//! ones never displace an answer, and answers that nobody reads never keep a new connection out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The open connections, by peer: a user or an address. Clones share them.
#[derive(Debug)]
pub struct ConnectionLimit<P>(Arc<Mutex<Admissions<P>>>);

#[derive(Debug)]
struct Admissions<P> {
    limits: MaxConnections,
    last_number: u64,
    /// In the order in which they were admitted, or began to be served.
    silent: Vec<AdmittedConnection<P>>,
    served: Vec<AdmittedConnection<P>>,
}

/// The largest number of connections of each kind. At least one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxConnections {
    pub silent: usize,
    pub served: usize,
}

#[derive(Debug)]
struct AdmittedConnection<P> {
    number: u64,
    peer: P,
    leave: CancellationToken,
}

/// A connection's permit, returned when dropped.
#[derive(Debug)]
pub struct ConnectionPermit<P> {
    limit: ConnectionLimit<P>,
    number: u64,
    leave: CancellationToken,
}

impl<P> Clone for ConnectionLimit<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P> ConnectionLimit<P> {
    #[must_use]
    pub fn new(most: MaxConnections) -> Self {
        let guests =
            Admissions { limits: most, last_number: 0, silent: Vec::new(), served: Vec::new() };
        Self(Arc::new(Mutex::new(guests)))
    }

    fn lock(&self) -> MutexGuard<'_, Admissions<P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Ord> ConnectionLimit<P> {
    /// Admits a connection that has not sent a request yet.
    #[must_use]
    pub fn admit(&self, who: P) -> ConnectionPermit<P> {
        let leave = CancellationToken::new();
        let mut guests = self.lock();
        guests.last_number += 1;
        let number = guests.last_number;
        let most = guests.limits.silent;
        guests.silent.push(AdmittedConnection { number, peer: who, leave: leave.clone() });
        evict_excess(&mut guests.silent, most);
        drop(guests);
        ConnectionPermit { limit: self.clone(), number, leave }
    }
}

impl<P: Ord> ConnectionPermit<P> {
    /// Its request has arrived: it is being served from now on.
    pub fn mark_served(&self) {
        let mut guests = self.limit.lock();
        let found = guests.silent.iter().position(|guest| guest.number == self.number);
        // It was closed just now.
        let Some(index) = found else { return };
        let guest = guests.silent.remove(index);
        let most = guests.limits.served;
        guests.served.push(guest);
        evict_excess(&mut guests.served, most);
    }

    /// Completes when this connection must close in favour of a newer one.
    pub async fn evicted(&self) {
        self.leave.cancelled().await;
    }
}

impl<P> Drop for ConnectionPermit<P> {
    fn drop(&mut self) {
        let mut guests = self.limit.lock();
        guests.silent.retain(|guest| guest.number != self.number);
        guests.served.retain(|guest| guest.number != self.number);
    }
}

fn evict_excess<P: Ord>(guests: &mut Vec<AdmittedConnection<P>>, most: usize) {
    while guests.len() > most.max(1) {
        let whose: Vec<&P> = guests.iter().map(|guest| &guest.peer).collect();
        let leaves = index_to_evict(&whose);
        guests.remove(leaves).leave.cancel();
    }
}

/// The index of the connection to close: the oldest of the peer with the most connections. If several peers
/// have as many, the oldest of them all.
fn index_to_evict<P: Ord>(whose: &[&P]) -> usize {
    let times = |who: &P| whose.iter().filter(|other| ***other == *who).count();
    let most = whose.iter().map(|who| times(who)).max().unwrap_or_default();
    whose.iter().position(|who| times(who) == most).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn has_left(place: &ConnectionPermit<u16>) -> bool {
        place.leave.is_cancelled()
    }

    fn numbers(guests: &[AdmittedConnection<u16>]) -> Vec<u16> {
        guests.iter().map(|guest| guest.peer).collect()
    }

    #[test]
    fn the_newest_stays_and_who_has_most_gives_way() {
        let crowd = ConnectionLimit::new(MaxConnections { silent: 3, served: 2 });
        let [a, b, c] = [1, 2, 1].map(|who| crowd.admit(who));
        let newest = crowd.admit(3);
        assert!(has_left(&a) && !has_left(&b) && !has_left(&c) && !has_left(&newest));
        // Each peer has one: the oldest is closed.
        let again = crowd.admit(4);
        assert!(has_left(&b) && !has_left(&again));
        drop(again);
        let own = crowd.admit(3);
        assert!(!has_left(&c) && !has_left(&newest) && !has_left(&own));
    }

    #[test]
    fn who_is_served_is_counted_apart() {
        let crowd = ConnectionLimit::new(MaxConnections { silent: 1, served: 1 });
        let first = crowd.admit(1);
        first.mark_served();
        let silent = crowd.admit(1);
        assert!(!has_left(&first));
        let second = crowd.admit(1);
        assert!(has_left(&silent) && !has_left(&first));
        silent.mark_served();
        assert!(!has_left(&first), "who had to leave takes nobody's place");
        second.mark_served();
        assert!(has_left(&first) && !has_left(&second));
        drop(second);
        assert_eq!(numbers(&crowd.lock().served), [0_u16; 0]);
    }

    proptest! {
        #[test]
        fn there_are_never_too_many_and_the_newest_is_there(
            most in 1usize..5,
            comers in prop::collection::vec((0u16..4, any::<bool>(), any::<bool>()), 1..40),
        ) {
            let crowd = ConnectionLimit::new(MaxConnections { silent: most, served: most });
            let mut places = Vec::new();
            for (who, asks, goes) in comers {
                let others = numbers(&crowd.lock().silent);
                let place = crowd.admit(who);
                prop_assert!(!has_left(&place));
                let now = numbers(&crowd.lock().silent);
                prop_assert!(now.len() <= most);
                // No peer loses a connection to one that then has more.
                for other in 0..4 {
                    let had = others.iter().filter(|one| **one == other).count();
                    let has = now.iter().filter(|one| **one == other).count();
                    let newcomer = now.iter().filter(|one| **one == who).count();
                    prop_assert!(other == who || has >= had || newcomer <= had);
                }
                if asks {
                    place.mark_served();
                    prop_assert!(!has_left(&place));
                    prop_assert!(crowd.lock().served.len() <= most);
                }
                if !goes {
                    places.push(place);
                }
            }
            drop(places);
            let guests = crowd.lock();
            prop_assert!(guests.silent.is_empty() && guests.served.is_empty());
        }
    }
}
