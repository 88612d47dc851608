//! The tasks of an instance, by name, and what the end of one means.

use std::{fmt::Display, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Exit;

/// The tasks of one instance, by name.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<Result<(), String>>,
    names: Vec<(Id, &'static str)>,
}

impl Tasks {
    pub(super) fn spawn<E: Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let task = async move { task.await.map_err(|error| error.to_string()) };
        let handle = self.set.spawn(task.in_current_span());
        self.names.push((handle.id(), name));
    }

    /// One that ends when it is told to, or by an error.
    pub(super) fn spawn_until<E: Display>(
        &mut self,
        stop: &CancellationToken,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let (stop, task) = (stop.clone(), Box::pin(task));
        self.spawn(name, async move { stop.run_until_cancelled(task).await.unwrap_or(Ok(())) });
    }

    /// One that ends when it is told to.
    pub(super) fn spawn_endless(
        &mut self,
        stop: &CancellationToken,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn_until(stop, name, async move {
            task.await;
            Ok::<(), String>(())
        });
    }

    /// Drops them. Answers whether all were, in this time: one that blocks its thread is left behind.
    pub(super) async fn drop_within(&mut self, limit: Duration) -> bool {
        timeout(limit, self.set.shutdown()).await.is_ok()
    }

    /// The next task to end: its name and how.
    pub(super) async fn ended(&mut self) -> Option<(&'static str, Exit)> {
        let ended = self.set.join_next_with_id().await?;
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let position = self.names.iter().position(|(known, _)| *known == id);
        let task = position.map_or("a task", |position| self.names.swap_remove(position).1);
        Some((task, exit_of(task, ended.map(|(_, result)| result))))
    }
}

/// What the end of a task means.
pub(super) fn exit_of<T, E: Display>(
    task: &'static str,
    ended: Result<Result<T, E>, JoinError>,
) -> Exit {
    match ended {
        Ok(Err(error)) => Exit::Failed { task, error: error.to_string() },
        Err(error) if error.is_panic() => Exit::Panicked { task },
        // It ended, or was dropped.
        Ok(Ok(_)) | Err(_) => Exit::Stopped,
    }
}
