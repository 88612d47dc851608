//! Requests of operators, one at a time and several at once.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_operator_stops_and_restarts() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, 1));
    rig.write("b.toml", &content(2, 1));
    quiet().await;
    let stop = |name: &str| Request::Stop { name: name.to_owned() };
    let answer = rig.ask(stop("a")).await;
    let lines = vec!["a: stopped by operator".to_owned()];
    assert_eq!(answer, Response::Done { lines, failed: false });
    // Rewritten unchanged, it stays down; a restart or a change starts it.
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    assert_eq!(rig.instance("a").await.state, InstanceState::Stopped { by: StoppedBy::Operator });
    let answer = rig.ask(Request::Restart { name: "a".into() }).await;
    let lines = vec!["a: running, generation 2".to_owned()];
    assert_eq!(answer, Response::Done { lines, failed: false });
    rig.ask(stop("a")).await;
    rig.write("a.toml", &content(1, 2));
    quiet().await;
    assert_eq!(rig.instance("a").await.state, InstanceState::Running);
    let answer = rig.ask(stop("c")).await;
    assert!(matches!(answer, Response::Refused { .. }), "{answer:?}");
    assert_eq!(rig.instance("b").await.generation, 1);
    // A bad file is told, and is no reason to call a stop failed.
    rig.write("b.toml", "nonsense");
    quiet().await;
    let answer = rig.ask(stop("b")).await;
    let Response::Done { lines, failed: false } = answer else { panic!("{answer:?}") };
    assert!(lines[0].starts_with("b: stopped by operator; reload failed: "), "{lines:?}");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn reload_answers_when_everything_is_applied() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    fs::write(rig.dir.join("a.toml"), content(1, 2)).unwrap();
    fs::write(rig.dir.join("b.toml"), "nonsense").unwrap();
    let answer = rig.ask(Request::Reload { name: None }).await;
    let Response::Done { lines, failed: true } = answer else { panic!("{answer:?}") };
    assert_eq!(lines[0], "a: running, generation 2");
    assert!(lines[1].starts_with("b: parked"), "{lines:?}");
    rig.end().await;
}

/// A node that is only slow to connect is no outcome; one that stays away is told after a while.
#[tokio::test(start_paused = true)]
async fn restart_answers_when_its_outcome_is_known() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, WAITS_A_MOMENT));
    rig.write("b.toml", &content(2, UNREACHABLE));
    rig.write("c.toml", &content(3, FAILS_AT_START));
    quiet().await;
    let restart = async |name: &str| {
        let answer = rig.ask(Request::Restart { name: name.into() }).await;
        let Response::Done { lines, failed } = answer else { panic!("{answer:?}") };
        (lines.join("\n"), failed)
    };
    assert_eq!(restart("a").await, ("a: running, generation 2".to_owned(), false));
    let begun = Instant::now();
    let (told, failed) = restart("b").await;
    assert!(told.starts_with("b: waiting for the node (no answer)") && !failed, "{told}");
    assert!(told.contains("`kms-connector status b`"), "{told}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(15) && took < Duration::from_secs(30), "{took:?}");
    let (told, failed) = restart("c").await;
    assert!(told.starts_with("c: backing-off (start failed") && failed, "{told}");
    rig.end().await;
}

/// Half of the requests are for all instances, half for the one whose change is checked for 20 s.
#[tokio::test(start_paused = true)]
async fn d6_fifty_reloads_at_once_all_end_and_a_good_file_is_not_blamed() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    rig.write("a.toml", &content(1, BLACK_HOLE));
    let path = rig.dir.with_file_name("control.sock");
    let candidates = control::candidates(Some(&path), &Environment::default(), &rig.dir);
    let listener = control::Listener::bind(&candidates).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(listener.serve(rig.commands.clone(), rig.stop.clone()));
    let mut asking = JoinSet::new();
    for number in 0..50 {
        let request = Request::Reload { name: (number % 2 == 0).then(|| "a".to_owned()) };
        let candidates = candidates.clone();
        asking.spawn(async move {
            control::ask(&candidates, &request, Duration::from_secs(30)).await.unwrap()
        });
    }
    for answer in asking.join_all().await {
        let Response::Done { lines, failed } = answer else { panic!("{answer:?}") };
        assert!(failed && lines[0].contains("waits") && !lines[0].contains("failed"), "{lines:?}");
    }
    let a = rig.instance("a").await;
    assert!(
        a.state == InstanceState::Running && a.reload_failed.is_some() && a.reload_waits,
        "{a:?}"
    );
    // An invalid file affects only its own instance.
    rig.write("a.toml", "nonsense");
    quiet().await;
    let a = rig.instance("a").await;
    assert!(a.reload_failed.is_some() && !a.reload_waits, "{a:?}");
    rig.write("a.toml", &content(1, 2));
    quiet().await;
    let a = rig.instance("a").await;
    assert_eq!((a.reload_failed, a.reload_waits, a.generation), (None, false, 2));
    rig.end().await;
    tasks.join_all().await;
}

/// Two operators at once: the overruled one gets the reason.
#[tokio::test(start_paused = true)]
async fn d6_a_restart_beaten_by_a_stop_says_so_and_the_other_way_round() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    let restart = || Request::Restart { name: "a".into() };
    let stop = || Request::Stop { name: "a".into() };
    let (restarted, stopped) = tokio::join!(rig.ask(restart()), rig.ask(stop()));
    let lines = vec!["a: stopped by operator".to_owned()];
    assert_eq!(stopped, Response::Done { lines, failed: false });
    let Response::Done { lines, failed: true } = restarted else { panic!("{restarted:?}") };
    assert!(lines[0].contains("`stop` came after"), "{lines:?}");
    // The overruled restart is not carried out later.
    rig.ask(restart()).await;
    quiet().await;
    assert_eq!(rig.instance("a").await.generation, 2);

    let (stopped, restarted) = tokio::join!(rig.ask(stop()), rig.ask(restart()));
    assert!(matches!(restarted, Response::Done { failed: false, .. }), "{restarted:?}");
    let Response::Done { lines, failed: true } = stopped else { panic!("{stopped:?}") };
    assert!(lines[0].contains("`restart`"), "{lines:?}");
    rig.end().await;
}

/// An unmounted directory: `reload` of one instance, then SIGHUP, then `reload` of all.
#[tokio::test(start_paused = true)]
async fn d2_only_a_whole_reload_ends_what_a_vanished_directory_had_and_says_whom() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, 1));
    rig.write("b.toml", &content(2, 1));
    quiet().await;
    fs::remove_dir_all(&rig.dir).unwrap();
    fs::create_dir(&rig.dir).unwrap();
    let reload = async |name: Option<&str>| {
        let name = name.map(str::to_owned);
        match rig.ask(Request::Reload { name }).await {
            Response::Done { lines, failed } => (lines.join("\n"), failed),
            other @ (Response::Status { .. }
            | Response::Told { .. }
            | Response::Absent { .. }
            | Response::Refused { .. }
            | Response::Silent { .. }) => panic!("{other:?}"),
        }
    };
    for name in [Some("b"), None, Some("a")] {
        if name.is_none() {
            rig.signals.send(Signal::Reload).await.unwrap();
            quiet().await;
            continue;
        }
        let (told, failed) = reload(name).await;
        assert!(failed && told.contains("replaced by another one"), "{told}");
        assert_eq!(rig.status().await.instances.len(), 2);
        assert_eq!(rig.instance("a").await.state, InstanceState::Running);
    }
    let (told, failed) = reload(None).await;
    assert!(!failed && told.contains("a has ended") && told.contains("b has ended"), "{told}");
    assert!(rig.status().await.instances.is_empty());
    rig.end().await;
}
