//! When each block was told: what anybody who follows the chain sees.

use std::{collections::BTreeMap, sync::Arc};

use alloy::primitives::U64;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpStream, sync::watch, task::JoinSet, time::Instant};
use tokio_tungstenite::tungstenite::Message;
use world::{Error, Result};

/// The blocks since this began, and when they came.
#[derive(Debug)]
pub struct Heads {
    seen: watch::Receiver<Arc<BTreeMap<u64, Instant>>>,
    _task: JoinSet<()>,
}

#[derive(Deserialize)]
struct Notice {
    params: Params,
}

#[derive(Deserialize)]
struct Params {
    result: Header,
}

#[derive(Deserialize)]
struct Header {
    number: U64,
}

impl Heads {
    pub async fn follow(url: &str) -> Result<Self> {
        let failed = |e: tokio_tungstenite::tungstenite::Error| Error::other(e.to_string());
        let address = url.trim_start_matches("ws://");
        let stream = TcpStream::connect(address).await.map_err(|e| Error::Io(url.into(), e))?;
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.map_err(failed)?;
        let (mut writer, mut reader) = socket.split();
        let call =
            json!({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]});
        writer.send(Message::text(call.to_string())).await.map_err(failed)?;
        let (tell, seen) = watch::channel(Arc::default());
        let mut task = JoinSet::new();
        task.spawn(async move {
            // Kept: the connection ends with it.
            let _writer = writer;
            while let Some(Ok(message)) = reader.next().await {
                let now = Instant::now();
                let Message::Text(text) = message else { continue };
                let Ok(notice) = serde_json::from_str::<Notice>(&text) else { continue };
                let number = notice.params.result.number.to();
                tell.send_modify(|seen: &mut Arc<BTreeMap<u64, Instant>>| {
                    Arc::make_mut(seen).insert(number, now);
                });
            }
        });
        Ok(Self { seen, _task: task })
    }

    pub fn seen(&self) -> Arc<BTreeMap<u64, Instant>> {
        Arc::clone(&self.seen.borrow())
    }
}
