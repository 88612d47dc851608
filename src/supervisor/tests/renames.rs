//! Files that change their names while earlier runs have not ended yet.

use super::*;

impl Harness {
    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.dir.join(from), self.dir.join(to)).unwrap();
    }

    /// The running instances with their versions.
    fn running(&self) -> Vec<(String, u64)> {
        let playing = self.stage.playing();
        playing.into_values().map(|playing| (playing.name, playing.version)).collect()
    }

    /// Sends both signals; everything must end within seconds.
    async fn end_by_two_signals(mut self) {
        self.signals.send(Signal::Terminate("SIGTERM")).await.unwrap();
        self.signals.send(Signal::Terminate("SIGTERM")).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        assert_eq!(self.running(), [], "something runs after the end");
        self.stage.check();
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// `b` runs, `a` drains for a long time.
async fn one_drains() -> Harness {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, DRAINS_LONG));
    rig.write("b.toml", &content(2, 2));
    quiet().await;
    rig.remove("a.toml");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.instance("a").await.state, InstanceState::Draining);
    rig
}

#[tokio::test(start_paused = true)]
async fn a12_a_file_renamed_onto_the_name_of_one_that_drains_leaves_no_orphan() {
    let rig = one_drains().await;
    rig.rename("b.toml", "a.toml");
    rig.wake.notify_one();
    quiet().await;
    assert_eq!(rig.running(), [("a".to_owned(), 2)]);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a12_the_second_signal_reaches_one_that_drains_whatever_was_renamed_onto_it() {
    let rig = one_drains().await;
    rig.rename("b.toml", "a.toml");
    rig.wake.notify_one();
    sleep(Duration::from_secs(5)).await;
    rig.end_by_two_signals().await;
}

#[tokio::test(start_paused = true)]
async fn a12_a_wallet_that_comes_back_under_its_old_name_waits_for_its_own_drain() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, DRAINS_LONG));
    quiet().await;
    rig.remove("a.toml");
    sleep(Duration::from_secs(5)).await;
    rig.write("b.toml", &content(1, 2));
    sleep(Duration::from_secs(5)).await;
    rig.rename("b.toml", "a.toml");
    rig.wake.notify_one();
    quiet().await;
    assert_eq!(rig.running(), [("a".to_owned(), 2)]);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a12_names_go_round_and_letters_change_their_case() {
    for (first, second) in [(DRAINS_LONG, 2), (2, DRAINS_LONG), (DRAINS_LONG, DRAINS_LONG)] {
        let rig = Harness::new();
        rig.write("a.toml", &content(1, first));
        rig.write("b.toml", &content(2, second));
        quiet().await;

        // a -> b -> c in one reading.
        rig.rename("b.toml", "c.toml");
        rig.rename("a.toml", "b.toml");
        rig.wake.notify_one();
        quiet().await;
        assert_eq!(rig.running(), [("b".to_owned(), first), ("c".to_owned(), second)]);

        // Two names are swapped.
        rig.rename("c.toml", "x");
        rig.rename("b.toml", "c.toml");
        rig.rename("x", "b.toml");
        rig.wake.notify_one();
        quiet().await;
        assert_eq!(rig.running(), [("b".to_owned(), second), ("c".to_owned(), first)]);

        // A name in other letter case and back, while the first run of that name may still be
        // ending.
        rig.rename("c.toml", "C.toml");
        rig.wake.notify_one();
        sleep(Duration::from_secs(4)).await;
        rig.rename("C.toml", "c.toml");
        rig.wake.notify_one();
        quiet().await;
        assert_eq!(rig.running(), [("b".to_owned(), second), ("c".to_owned(), first)]);
        rig.end().await;
    }
}
