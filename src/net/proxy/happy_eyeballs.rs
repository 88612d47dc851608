//! Connects to one of several addresses of a name, as in RFC 8305 (Happy Eyeballs): if an address
//! does not answer within a short delay, the next one is tried as well, and the first connection is
//! taken. So an address that drops packets costs this delay and not the whole deadline.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{net::TcpStream, time::sleep};

/// The "Connection Attempt Delay" of RFC 8305.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Connects to `host`, a name or an address. The caller sets the deadline.
pub(super) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    first_connection(interleave_families(addresses), TcpStream::connect).await
}

/// Alternates between address families, beginning with that of the first address.
fn interleave_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(six) = addresses.first().map(SocketAddr::is_ipv6) else { return addresses };
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == six);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    loop {
        let (one, other) = (first.next(), second.next());
        if one.is_none() && other.is_none() {
            order.truncate(MAX_ADDRESSES);
            return order;
        }
        order.extend(one.into_iter().chain(other));
    }
}

/// The first connection that succeeds; the last error if all fail.
async fn first_connection<T, Connecting: Future<Output = io::Result<T>>>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> Connecting,
) -> io::Result<T> {
    let mut waiting = addresses.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if under_way.is_empty() {
            let Some(address) = waiting.next() else { return Err(failed) };
            under_way.push(connect(address));
        }
        tokio::select! {
            biased;
            Some(connected) = under_way.next() => match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            },
            () = sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {
                under_way.extend(waiting.next().map(&connect));
                continue;
            }
        }
        // After a failure the next address is tried at once.
        under_way.extend(waiting.next().map(&connect));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| format!("{text}:1").parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let order =
            interleave_families(addresses(&["[::1]", "[::2]", "1.1.1.1", "2.2.2.2", "3.3.3.3"]));
        assert_eq!(order, addresses(&["[::1]", "1.1.1.1", "[::2]", "2.2.2.2", "3.3.3.3"]));
        assert_eq!(interleave_families(Vec::new()), []);
        assert_eq!(interleave_families(addresses(&["1.1.1.1"; 20])).len(), MAX_ADDRESSES);
    }

    /// The result of a connection, by the last digit of the address: 0 no answer, 1 refused, else
    /// connected.
    async fn fate(address: SocketAddr) -> io::Result<SocketAddr> {
        match address.ip().to_string().as_bytes().last() {
            Some(b'0') => std::future::pending().await,
            Some(b'1') => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => Ok(address),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn c3_a_black_hole_costs_a_moment() {
        let begun = Instant::now();
        let all = addresses(&["10.0.0.0", "10.0.0.10", "10.0.0.2"]);
        let connected = timeout(ATTEMPT_DELAY * 9, first_connection(all.clone(), fate)).await;
        assert_eq!(connected.expect("waits for no black hole").unwrap(), all[2]);
        assert_eq!(begun.elapsed(), ATTEMPT_DELAY * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn c3_a_refusal_costs_nothing_and_is_told_if_all_refuse() {
        let begun = Instant::now();
        let all = addresses(&["10.0.0.1", "10.0.0.2"]);
        assert_eq!(first_connection(all.clone(), fate).await.unwrap(), all[1]);
        let error =
            first_connection(addresses(&["10.0.0.1", "10.0.0.11"]), fate).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(
            first_connection(Vec::new(), fate).await.unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
