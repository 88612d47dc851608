//! The named tasks of an instance, and what the end of one means.

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Exit, Failure};

/// The tasks of one instance. Spawning and joining may happen in different places.
#[derive(Clone, Default)]
pub(super) struct Tasks(Arc<Mutex<NamedTasks>>);

#[derive(Default)]
struct NamedTasks {
    set: JoinSet<Result<(), Failure>>,
    names: Vec<(Id, &'static str)>,
}

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, NamedTasks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spawn<E: Into<Failure>>(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let task = async move { task.await.map_err(Into::into) };
        let mut named = self.lock();
        let handle = named.set.spawn(task.in_current_span());
        named.names.push((handle.id(), name));
    }

    /// Spawns a task that ends on request or with an error.
    pub(super) fn spawn_until<E: Into<Failure>>(
        &self,
        stop: &CancellationToken,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let (stop, task) = (stop.clone(), Box::pin(task));
        self.spawn(name, async move { stop.run_until_cancelled(task).await.unwrap_or(Ok(())) });
    }

    /// Spawns a task that ends only on request.
    pub(super) fn spawn_endless(
        &self,
        stop: &CancellationToken,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn_until(stop, name, async move {
            task.await;
            Ok::<(), Infallible>(())
        });
    }

    /// Aborts all tasks. Returns whether all ended within `limit`; one that blocks its thread is left
    /// behind.
    pub(super) async fn drop_within(&self, limit: Duration) -> bool {
        self.lock().set.abort_all();
        let dropping = async { while self.next_ended().await.is_some() {} };
        timeout(limit, dropping).await.is_ok()
    }

    /// Waits for the next task to end; returns its name and exit.
    pub(super) async fn next_ended(&self) -> Option<(&'static str, Exit)> {
        let ended = poll_fn(|context| self.lock().set.poll_join_next_with_id(context)).await?;
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let mut named = self.lock();
        let position = named.names.iter().position(|(known, _)| *known == id);
        let task = position.map_or("a task", |position| named.names.swap_remove(position).1);
        Some((task, exit_of(task, ended.map(|(_, result)| result))))
    }

    /// Waits for the first task that ends without being asked to.
    pub(super) async fn first_failure(&self) -> Exit {
        match self.next_ended().await {
            Some((task, exit)) => unexpected_end(task, exit),
            None => std::future::pending().await,
        }
    }
}

/// The exit for a task that ended without being asked to.
pub(super) fn unexpected_end(task: &'static str, exit: Exit) -> Exit {
    if exit.is_stopped() { Exit::failed(task, Failure::Untold) } else { exit }
}

/// Maps a task's result to an exit.
pub(super) fn exit_of<T, E: Into<Failure>>(
    task: &'static str,
    ended: Result<Result<T, E>, JoinError>,
) -> Exit {
    match ended {
        Ok(Err(error)) => Exit::failed(task, error),
        Err(error) if error.is_panic() => Exit::Panicked { task },
        // It ended, or was aborted.
        Ok(Ok(_)) | Err(_) => Exit::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use crate::{
        admin::status::Reporter,
        config::{Environment, LoadMode, Source, load},
        instance::{Edges, Exit, Supervision, run},
        telemetry::{
            heartbeat::{self, Heartbeats},
            metrics::Metrics,
        },
    };

    /// The task that connects the nodes panics before any node is connected: without this nobody would
    /// notice.
    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_while_the_instance_is_built_ends_it() {
        crate::net::tls::install_provider();
        let key = "11".repeat(32);
        let environment = Environment::from_iter([("KMS_CONNECTOR_PRIVATE_KEY".to_owned(), key)]);
        let source =
            Source { file: None, environment, credentials_directory: None, mode: LoadMode::Start };
        let config = load(&source).unwrap().config;
        let dir = tempfile::tempdir().unwrap();
        let supervision = Supervision {
            name: "a".to_owned(),
            state_dir: dir.path().to_owned(),
            reporter: Reporter::new(Metrics::default()),
            heartbeats: Heartbeats::default(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        let mut edges =
            Edges::for_config(&config, &Metrics::default()).unwrap_or_else(|_| panic!());
        edges.connecting = Box::new(|_, _| Box::pin(async { panic!("a bug") }));
        let running = Box::pin(run(config.into(), supervision, edges, None));
        let ended = tokio::time::timeout(std::time::Duration::from_mins(1), running).await;
        let exit = ended.unwrap().exit;
        assert!(matches!(exit, Exit::Panicked { task: heartbeat::GATEWAY_CONNECTION }), "{exit}");
    }
}
