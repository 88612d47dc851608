//! Under which names the ciphertexts of v0.14 are found, and with how many calls.

use super::*;

/// How a coprocessor of one time names its ciphertexts.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Digests,
    Handles,
    PrefixedHandles,
    PrefixedHandlesOnly,
}

/// A bucket that keeps these ciphertexts as this layout has it.
async fn bucket_with(layout: Layout, bodies: &[Vec<u8>], missing: u16) -> Server {
    let mut objects = HashMap::new();
    for body in bodies {
        let Material { handle, digest, .. } = material(0, body, 1);
        let by_digest = format!("/ct128/{digest:x}");
        let names = match layout {
            Layout::Digests => vec![by_digest],
            Layout::Handles => vec![format!("/ct128/{handle:x}/1"), by_digest],
            Layout::PrefixedHandles => vec![format!("/ct128/ct128/{handle:x}/1"), by_digest],
            Layout::PrefixedHandlesOnly => vec![format!("/ct128/ct128/{handle:x}/1")],
        };
        objects.extend(names.into_iter().map(|name| (name, body.clone())));
    }
    Server::by_path(move |path| {
        objects.get(path).map_or(ServerAction::Status(missing), |body| serve(body))
    })
    .await
}

async fn fetch(room: &Ciphertexts<Registry>, body: &[u8]) -> Result<Fetched, FetchError> {
    let request = request(&[material(0, body, 1)]);
    room.fetch(&request, CiphertextSource::HandleThenDigest).await
}

/// Each layout is found; after the first ciphertext with one call.
#[tokio::test]
async fn g1_the_usual_ciphertext_of_v0_14_takes_one_call() {
    let bodies: Vec<_> = (0..4).map(|seed| body(seed, 100)).collect();
    for (layout, missing, first) in [
        (Layout::PrefixedHandles, 404, 1),
        (Layout::PrefixedHandlesOnly, 404, 1),
        (Layout::Handles, 404, 2),
        (Layout::Digests, 404, 3),
        // S3 denies what is not there, if nobody may list the bucket.
        (Layout::Digests, 403, 3),
    ] {
        let server = bucket_with(layout, &bodies, missing).await;
        let room = room(&[&server]);
        for (nth, body) in bodies.iter().enumerate() {
            let fetched = fetch(&room, body).await.unwrap();
            assert_eq!(fetched.ciphertexts[0].body, *body);
            assert_eq!(fetched.key_id, U256::ONE);
            assert_eq!(server.requests(), first + nth, "{layout:?}");
        }
        // By digest alone: one call, and nothing is learned.
        let known = bucket_with(Layout::Digests, &bodies, missing).await;
        let digests = super::room(&[&known]);
        digests.fetch_of(&[material(0, &bodies[0], 1)]).await.unwrap();
        assert_eq!(known.requests(), 1);
    }
}

/// A coprocessor was upgraded: its older ciphertexts have their digest for a name, its newer ones both.
#[tokio::test]
async fn g1_what_was_stored_before_an_upgrade_is_found_by_its_digest() {
    let (old, new) = (body(1, 100), body(2, 100));
    let after = Server::by_path({
        let (old_name, new) = (material(0, &old, 1).digest, (material(0, &new, 1), new.clone()));
        let old = old.clone();
        move |path| match path {
            path if path == format!("/ct128/{old_name:x}") => serve(&old),
            path if path == format!("/ct128/{:x}", new.0.digest) => serve(&new.1),
            path if path == format!("/ct128/ct128/{:x}/1", new.0.handle) => serve(&new.1),
            _ => ServerAction::Status(404),
        }
    })
    .await;
    let room = room(&[&after]);
    for (body, calls) in [(&new, 1), (&old, 2), (&new, 1), (&old, 1)] {
        let before = after.requests();
        fetch(&room, body).await.unwrap();
        assert_eq!(after.requests() - before, calls);
    }
}

/// Other bytes under the handle do not hide those under the digest, and are counted; a bucket that does not
/// answer is not asked for three names.
#[tokio::test]
async fn g1_a_wrong_object_is_not_the_last_word_of_its_bucket() {
    let wanted = body(1, 100);
    let Material { digest, .. } = material(0, &wanted, 1);
    let server = {
        let wanted = wanted.clone();
        Server::by_path(move |path| {
            let right = path == format!("/ct128/{digest:x}");
            serve(if right { &wanted } else { b"other bytes" })
        })
        .await
    };
    let room = room(&[&server]);
    fetch(&room, &wanted).await.unwrap();
    assert_eq!(server.requests(), 3);

    let busy = Server::always(ServerAction::Status(503)).await;
    let error = fetch(&super::room(&[&busy]), &wanted).await.unwrap_err();
    assert_eq!(troubles(&error).len(), 1);
    assert_eq!(busy.requests(), 1);
}

#[tokio::test]
async fn g1_an_event_without_materials_needs_attestations() {
    let mut request = request(&[material(0, b"x", 1)]);
    let Operation::PublicDecryption(public) = &mut request.operation else { panic!() };
    public.materials = None;
    let room = room(&[]);
    for source in [CiphertextSource::Digest, CiphertextSource::HandleThenDigest] {
        let error = room.fetch(&request, source).await.unwrap_err();
        assert_eq!(reason(&error), Some(HoldReason::UnsupportedGeneration));
    }
    let mut two = [material(0, b"x", 1), material(0, b"y", 1)];
    two[1].key_id = U256::from(2);
    let error = room.fetch_of(&two).await.unwrap_err();
    assert!(matches!(error.remedy(Duration::ZERO), Remedy::Refuse(_)), "{error}");
}
