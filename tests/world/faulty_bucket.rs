//! A bucket that answers every GET in one wrong way: what no well-behaved S3 server can be made
//! to do. Wrong bytes and missing objects need no such thing ([`super::ministack::Bucket::put`]).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Error, Result};

/// What comes back instead of the object.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A status with an empty body: 403, 404, 500, 503 …
    Status(u16),
    /// A redirect to this URL.
    Redirect(String),
    /// `Content-Length` announces the first number of bytes, the second number is sent, then the
    /// connection is closed: with less sent a body that is cut, with both large a huge object.
    Body { announced: u64, sent: u64 },
    /// This many bytes without a length, up to the end of the connection.
    Unannounced { sent: u64 },
    /// The request is read and never answered.
    Hang,
    /// An answer begins and does not go on.
    Stall,
}

/// The server. Dropping it closes it.
#[derive(Debug)]
pub struct FaultyBucket {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    _serving: JoinSet<()>,
}

impl FaultyBucket {
    pub async fn start(fault: Fault) -> Result<Self> {
        let failed = |e| Error::Io("faulty bucket".into(), e);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let requests = Arc::new(AtomicU64::new(0));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, fault, Arc::clone(&requests)));
        Ok(Self { address, requests, _serving: serving })
    }

    /// What a coprocessor registers as `s3BucketUrl`.
    pub fn url(&self) -> String {
        format!("http://{}/ct128", self.address)
    }

    /// How many requests have come.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, fault: Fault, requests: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let (fault, requests) = (fault.clone(), Arc::clone(&requests));
                    connections.spawn(async move {
                        // The client may leave at any moment: that is what these faults are for.
                        let _left = answer(stream, &fault, &requests).await;
                    });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One request, one answer, end of the connection.
async fn answer(mut stream: TcpStream, fault: &Fault, requests: &AtomicU64) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    requests.fetch_add(1, Ordering::Relaxed);
    let head = |status: &str, length: Option<u64>| {
        let length = length.map_or_else(String::new, |n| format!("content-length: {n}\r\n"));
        format!("HTTP/1.1 {status}\r\n{length}connection: close\r\n\r\n")
    };
    match fault {
        Fault::Status(status) => {
            stream.write_all(head(&format!("{status} Fault"), Some(0)).as_bytes()).await?;
        }
        Fault::Redirect(url) => {
            let status = format!("307 Temporary Redirect\r\nlocation: {url}");
            stream.write_all(head(&status, Some(0)).as_bytes()).await?;
        }
        Fault::Body { announced, sent } => {
            stream.write_all(head("200 OK", Some(*announced)).as_bytes()).await?;
            write_bytes(&mut stream, *sent).await?;
        }
        Fault::Unannounced { sent } => {
            stream.write_all(head("200 OK", None).as_bytes()).await?;
            write_bytes(&mut stream, *sent).await?;
        }
        Fault::Hang => std::future::pending().await,
        Fault::Stall => {
            stream.write_all(head("200 OK", Some(1000)).as_bytes()).await?;
            write_bytes(&mut stream, 10).await?;
            std::future::pending::<()>().await;
        }
    }
    stream.shutdown().await
}

async fn write_bytes(stream: &mut TcpStream, count: u64) -> std::io::Result<()> {
    tokio::io::copy(&mut tokio::io::repeat(0xab).take(count), stream).await.map(drop)
}
