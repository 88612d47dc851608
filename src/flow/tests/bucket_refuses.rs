//! A bucket that refuses a ciphertext which is not there yet, and one that refuses for good. A real
//! walk with a Core, a bucket and a node in memory, in virtual time.

use super::scene::{FakeCore, Scene, TIMEOUT};
use super::*;
use crate::flow::walk::WalkEnd;

const DENIED: &str =
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code></Error>";
const SKEWED: &str =
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>RequestTimeTooSkewed</Code></Error>";

/// S3 answers 403 instead of 404 where listing is not allowed.
#[tokio::test(start_paused = true)]
async fn c4_a_403_for_what_is_not_there_yet_is_tried_again_soon() {
    let refusing = |nth| (nth <= 5).then_some((403, DENIED));
    let scene = Scene::refused_by_bucket(FakeCore::pending(), Stage::Arrived, refusing).await;
    let (ended, took) = scene.walk(&Capacity::new(1)).await;
    // The Core has the request then, and does not answer.
    assert_eq!((ended, scene.held()), (WalkEnd::Held, Some(HoldReason::CoreSilent)));
    assert_eq!((scene.gets(), scene.core.counts().asks), (6, 1));
    assert!(took < TIMEOUT + Duration::from_secs(30), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn c4_what_a_bucket_refuses_for_long_is_held_with_its_code_and_remedy() {
    for (body, code, remedy) in
        [(DENIED, "403 AccessDenied", "coprocessor"), (SKEWED, "403 RequestTimeTooSkewed", "clock")]
    {
        let refusing = move |_| Some((403, body));
        let scene = Scene::refused_by_bucket(FakeCore::pending(), Stage::Arrived, refusing).await;
        let (ended, took) = scene.walk(&Capacity::new(1)).await;
        assert_eq!((ended, scene.held()), (WalkEnd::Held, Some(HoldReason::AccessDenied)));
        let minute = Duration::from_mins(1);
        assert!(took >= minute && took < 5 * minute, "{took:?}");
        let detail = scene.now().detail;
        assert!(detail.contains(code) && detail.contains(remedy), "{detail}");
        // The refusal is known by then: the walk does not hold a permit that long again.
        let (ended, took) = scene.walk(&Capacity::new(1)).await;
        assert_eq!((ended, took < minute), (WalkEnd::Held, true));
    }
}
