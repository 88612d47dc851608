//! The network below every client and listener: TLS roots, proxies, AWS credentials, limits of connections.

pub mod tls;
pub mod percent;
pub mod proxy;
pub mod aws;
pub mod connection_limit;
