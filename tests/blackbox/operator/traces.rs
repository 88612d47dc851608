//! Traces: each request's rooms arrive at a collector, the Core learns which trace it is part of, and
//! a collector that is away costs nothing but spans.

use std::{collections::BTreeSet, time::Duration};

use alloy::hex;
use tokio::net::TcpListener;
use world::{
    Error, Result,
    collector::{Collected, Collector},
    connector,
    request::Ask,
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

const POLL: Duration = Duration::from_millis(50);
const ROOMS: [&str; 4] = ["ciphertexts", "kms_core_ask", "kms_core_answer", "gateway"];

/// A start with these variables.
fn start(scene: &mut Scene, variables: &[(&str, &str)]) -> Result<()> {
    std::fs::write(scene.config_file(), scene.config(""))
        .map_err(|e| Error::Io("writing the configuration".into(), e))?;
    let mut command = connector();
    command.arg("start").arg("-c").arg(scene.config_file()).args(["-n", "node-7"]);
    command.envs(variables.iter().copied());
    scene.spawn(command)
}

#[world::test]
async fn a_request_is_a_trace_that_goes_on_in_the_core() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let collector = Collector::start().await?;
    start(
        &mut scene,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20CANARY"),
            ("OTEL_SERVICE_NAME", "kms-of-one"),
        ],
    )?;
    let requests = scene.deployment.request(Ask::mixed(3, 3)).await?;
    for request in &requests {
        scene.settled(request.id, "accepted").await?;
    }
    let of_requests = |spans: Vec<Collected>| -> Vec<Collected> {
        spans.into_iter().filter(|one| one.span.name == "request").collect()
    };
    until("the requests' spans", PATIENCE, POLL, async || {
        Ok((of_requests(collector.spans()).len() == requests.len()).then_some(()))
    })
    .await?;
    let spans = collector.spans();
    let mut traces = BTreeSet::new();
    for request in &requests {
        let id = format!("{:#066x}", request.id);
        let found: Vec<_> = spans.iter().filter(|one| one.text("id") == Some(&id)).collect();
        let [root] = found[..] else { return Err(Error::other(format!("{id}: {found:?}"))) };
        assert!(root.span.parent_span_id.is_empty(), "a request is a trace of its own");
        assert_eq!((root.service.as_str(), root.text("instance")), ("kms-of-one", Some("node-7")));
        assert!(root.text("kind").is_some());
        let told = |what: &str| root.span.events.iter().any(|event| event.name == what);
        assert!(told("request settled"), "{root:?}");
        traces.insert(&root.span.trace_id);
        let trace = spans.iter().filter(|one| one.span.trace_id == root.span.trace_id);
        let rooms: Vec<_> = trace.filter(|one| one.span.name != "request").collect();
        for room in ROOMS {
            let inside = rooms.iter().find(|one| one.span.name == room);
            let inside = inside.ok_or_else(|| Error::other(format!("{id} was not in {room}")))?;
            assert_eq!(inside.span.parent_span_id, root.span.span_id, "{room}");
        }
        // The Core is told the span that asks it.
        let asks = scene.core.asks();
        let ask = asks.iter().find(|ask| id.ends_with(ask.id.trim_start_matches('0')));
        let parent = ask.and_then(|ask| ask.traceparent.clone()).unwrap_or_default();
        let asking = rooms.iter().find(|one| one.span.name == "kms_core_ask").unwrap();
        let (trace, span) = (&asking.span.trace_id, &asking.span.span_id);
        assert_eq!(parent, format!("00-{}-{}-01", hex::encode(trace), hex::encode(span)));
    }
    assert_eq!(traces.len(), requests.len());
    assert!(collector.headers().iter().all(|headers| headers["authorization"] == "Bearer CANARY"));
    assert!(!scene.log().contains("CANARY"), "{}", scene.log());
    assert!(!format!("{spans:?}").contains(&hex::encode(scene.wallet.to_bytes())));

    // Without the variable nothing is tried and nobody told.
    assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());
    let (sent, asked) = (collector.spans().len(), scene.core.asks().len());
    start(&mut scene, &[])?;
    let more = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.answered(&more).await?;
    assert!(scene.core.asks().iter().skip(asked).all(|ask| ask.traceparent.is_none()));
    assert_eq!(collector.spans().len(), sent);
    Ok(())
}

#[world::test]
async fn a_collector_that_is_silent_or_away_stops_nothing() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    // It takes connections and never says a word.
    let silent =
        TcpListener::bind(("127.0.0.1", 0)).await.map_err(|e| Error::Io("a port".into(), e))?;
    let silent_at = silent.local_addr().map_err(|e| Error::Io("its address".into(), e))?;
    let away = format!("http://127.0.0.1:{}/CANARY", world::free_port()?);
    for endpoint in [format!("http://{silent_at}/CANARY?key=CANARY"), away] {
        start(&mut scene, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)])?;
        let before = scene.log().matches("traces cannot be delivered").count();
        let requests = scene.deployment.request(Ask::mixed(10, 10)).await?;
        for request in &requests {
            scene.settled(request.id, "accepted").await?;
        }
        let told = || scene.log().matches("traces cannot be delivered").count() - before;
        until("a word about it", PATIENCE, POLL, async || Ok((told() > 0).then_some(()))).await?;
        let requests = scene.deployment.request(Ask::mixed(10, 10)).await?;
        scene.answered(&requests).await?;
        assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());
        let told = scene.log().matches("traces cannot be delivered").count() - before;
        assert!(told <= 2, "{}", scene.log());
        assert!(!scene.log().contains("CANARY"), "{}", scene.log());
    }
    Ok(())
}
