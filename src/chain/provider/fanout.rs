//! A value with several followers, each with its own channel. Waiters of one channel wake in no fixed
//! order; here the order is fixed, so that simulated runs repeat exactly.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

#[derive(Debug, Default)]
struct Fanout<T> {
    value: T,
    closed: bool,
    listeners: Vec<watch::Sender<T>>,
}

/// The publishing side. Dropping it closes the channels.
#[derive(Debug)]
pub(super) struct FanoutSender<T>(Arc<Mutex<Fanout<T>>>);

/// The subscribing side.
#[derive(Debug)]
pub(super) struct FanoutSubscribers<T>(Arc<Mutex<Fanout<T>>>);

pub(super) fn channel<T: Default>() -> (FanoutSender<T>, FanoutSubscribers<T>) {
    let fan = Arc::<Mutex<Fanout<T>>>::default();
    (FanoutSender(fan.clone()), FanoutSubscribers(fan))
}

fn locked<T>(fan: &Mutex<Fanout<T>>) -> MutexGuard<'_, Fanout<T>> {
    fan.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone + PartialEq> FanoutSender<T> {
    /// Publishes a value. An unchanged value wakes nobody.
    pub(super) fn publish(&self, value: T) {
        let mut fan = locked(&self.0);
        if fan.value == value {
            return;
        }
        for listener in &fan.listeners {
            listener.send_replace(value.clone());
        }
        fan.value = value;
    }
}

impl<T> Drop for FanoutSender<T> {
    fn drop(&mut self) {
        let mut fan = locked(&self.0);
        fan.closed = true;
        fan.listeners.clear();
    }
}

impl<T: Clone> FanoutSubscribers<T> {
    pub(super) fn get(&self) -> T {
        locked(&self.0).value.clone()
    }

    /// The present value counts as unseen.
    pub(super) fn subscribe(&self) -> watch::Receiver<T> {
        let mut fan = locked(&self.0);
        let (sender, mut receiver) = watch::channel(fan.value.clone());
        receiver.mark_changed();
        fan.listeners.retain(|listener| !listener.is_closed());
        if !fan.closed {
            fan.listeners.push(sender);
        }
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_until_nobody_tells() {
        let (teller, listeners) = channel::<u64>();
        let (mut early, late) = (listeners.subscribe(), listeners.subscribe());
        assert!(early.has_changed().unwrap());
        assert_eq!(*early.borrow_and_update(), 0);
        teller.publish(0);
        assert!(!early.has_changed().unwrap());
        teller.publish(7);
        assert_eq!((*early.borrow(), *late.borrow(), listeners.get()), (7, 7, 7));
        drop(late);
        listeners.subscribe();
        assert_eq!(locked(&listeners.0).listeners.len(), 2, "who is gone is forgotten");
        drop(teller);
        assert!(early.has_changed().is_err() && listeners.subscribe().has_changed().is_err());
        assert_eq!(listeners.get(), 7);
    }
}
