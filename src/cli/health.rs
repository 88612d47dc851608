//! `kms-connector health`: asks over HTTP whether the process that listens here is ready, for a
//! container's health check. The answer is the exit code, with the reasons as text.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::output::{ExitStatus, print, print_error};
use crate::admin::readiness::Readiness;

/// For the whole request.
const DEADLINE: Duration = Duration::from_secs(5);
/// The largest response accepted, in bytes.
const LONGEST_ANSWER: usize = 4 << 20;

/// Asks the listener at `address` about all of its instances, or one.
pub(super) async fn health(instance: Option<&str>, address: SocketAddr) -> ExitStatus {
    let address = reachable(address);
    let path = path(instance);
    let (status, body) = match timeout(DEADLINE, ask(address, &path)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(why)) => return unanswered(address, &why.to_string()),
        Err(_) => return unanswered(address, &format!("no answer within {DEADLINE:?}")),
    };
    match serde_json::from_slice::<Readiness>(&body) {
        Ok(readiness) => {
            let word = if readiness.ready { "ready" } else { "not ready" };
            let ending = if readiness.ready { ExitStatus::Success } else { ExitStatus::Failure };
            let mut text = format!("{word}\n");
            for reason in &readiness.reasons {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "  {reason}");
            }
            print(&text, ending)
        }
        Err(_) if status == StatusCode::NOT_FOUND => {
            match instance {
                Some(name) => print_error(format_args!("there is no instance {name} at {address}")),
                None => print_error(format_args!("{address} is no connector's listener")),
            }
            ExitStatus::Failure
        }
        Err(_) => unanswered(address, &format!("it answers {status}, and no verdict")),
    }
}

fn unanswered(address: SocketAddr, why: &str) -> ExitStatus {
    print_error(format_args!(
        "the connector at {address} cannot be asked: {why}; is it running, and is this its \
         --listen or KMS_CONNECTOR_LISTEN?"
    ));
    ExitStatus::Failure
}

/// A listener on the unspecified address is asked on the loopback address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

fn path(instance: Option<&str>) -> String {
    let Some(name) = instance else { return "/readyz".to_owned() };
    let mut path = "/readyz/".to_owned();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn ask(address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), AnyError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asking = async {
        let request = Request::get(path).header(HOST, address.to_string());
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(asking, connection);
    tokio::select! {
        answer = &mut asking => answer,
        // The connection may end before the body has been read.
        _ = &mut connection => asking.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_this_machine() {
        for (listens, asked) in [
            ("0.0.0.0:9478", "127.0.0.1:9478"),
            ("[::]:9478", "[::1]:9478"),
            ("10.0.0.7:80", "10.0.0.7:80"),
        ] {
            let address: SocketAddr = listens.parse().unwrap();
            assert_eq!(reachable(address).to_string(), asked);
        }
    }

    #[test]
    fn a_name_is_one_part_of_the_path() {
        assert_eq!(path(None), "/readyz");
        assert_eq!(path(Some("node-1")), "/readyz/node-1");
        assert_eq!(path(Some("a/b c%")), "/readyz/a%2Fb%20c%25");
    }
}
