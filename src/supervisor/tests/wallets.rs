//! Which instance gets a wallet that several claim.

use super::*;

#[tokio::test(start_paused = true)]
async fn one_wallet_has_one_owner() {
    let rig = Harness::new();
    rig.write("b.toml", &content(1, 1));
    quiet().await;
    rig.write("a.toml", &content(1, 2));
    quiet().await;
    assert_eq!(rig.stage.playing()["b"].version, 1);
    let a = rig.instance("a").await;
    assert!(matches!(a.state, InstanceState::Parked { .. }), "{a:?}");
    assert!(a.reload_failed.unwrap().contains("instance b"));

    // Swapped wallets wait for each other.
    rig.write("a.toml", &content(2, 1));
    quiet().await;
    rig.write("a.toml", &content(1, 3));
    rig.write("b.toml", &content(2, 3));
    quiet().await;
    let playing = rig.stage.playing();
    assert_eq!((playing["a"].version, playing["b"].version), (3, 3));
    rig.end().await;
}

/// A typo in one file, and a forgotten copy of it with another Core.
#[tokio::test(start_paused = true)]
async fn d3_a_slip_gives_no_wallet_to_a_forgotten_copy() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    rig.write("old-a.toml", &content(1, 2).replace("50001", "50009"));
    quiet().await;
    rig.write("a.toml", &(content(1, 1) + "x = "));
    quiet().await;
    let a = rig.instance("a").await;
    assert!(a.state == InstanceState::Running && a.reload_failed.is_some(), "{a:?}");
    assert!(rig.instance("old-a").await.reload_failed.unwrap().contains("instance a"));
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    let a = rig.instance("a").await;
    assert_eq!((a.state, a.reload_failed, a.generation), (InstanceState::Running, None, 1));
    rig.end().await;
}
