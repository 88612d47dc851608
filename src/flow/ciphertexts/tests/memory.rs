//! The memory of a fetch: bodies larger than announced or than their type, many requests, the largest one.

use super::*;

#[tokio::test]
async fn a_body_larger_than_its_type_gets_the_memory_it_needs() {
    // A Bool takes one block of 64 KiB; these take five and twenty.
    let announced = body(1, 330_000);
    let chunked = body(2, 1_300_000);
    let objects = HashMap::from([
        (format!("{:x}", keccak256(&announced)), serve(&announced)),
        (
            format!("{:x}", keccak256(&chunked)),
            ServerAction::Chunked { body: chunked[..500_000].to_vec() },
        ),
    ]);
    let server = Server::start(move |key| objects[key].clone()).await;
    let room = room_with(registry(&[server.url()]), 4);
    let fetched = room.fetch_of(&[material(0, &announced, 1)]).await.unwrap();
    assert!(fetched.reservation.kib() * 1024 >= 2 * announced.len());
    assert_eq!(room.reserved_kib(), fetched.reservation.kib(), "what was held before is free");
    drop(fetched);
    // Cut at half a MiB: the digest can only be wrong once there was memory for the whole body.
    let error = room.fetch_of(&[material(0, &chunked, 1)]).await.unwrap_err();
    assert_eq!(troubles(&error), [BucketError::WrongBytes { received: 500_000 }]);
    assert_eq!(room.reserved_kib(), 0);
}

#[tokio::test]
async fn a_boast_beyond_all_memory_does_not_starve_the_request() {
    let wanted = body(1, 66_000);
    let boast =
        ServerAction::Announce { announced: 60 * MIB, body: Vec::new(), then: AfterBody::Silence };
    let boaster = Server::always(boast).await;
    let good = bucket_of(vec![wanted.clone()]).await;
    let room = room_with(registry(&[boaster.url(), good.url()]), 4);
    room.fetch_of(&[material(0, &wanted, 2)]).await.unwrap();
    let error = room.fetch_of(&[material(0, &wanted, 1)]).await.unwrap_err();
    assert_eq!(troubles(&error), [BucketError::LargerThanShare { bytes: 60 * MIB }]);
    assert_eq!(reason(&error), Some(HoldReason::CiphertextTooLarge));
}

/// Field failure T21.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_share_the_memory_without_deadlock() {
    const REQUESTS: usize = 60;
    let bodies: Vec<_> = (0..8_u8).map(|seed| body(seed, 65_000)).collect();
    // Larger than its type allows: every request releases its memory and asks for more.
    let large = body(100, 200_000);
    let mut all = bodies.clone();
    all.push(large.clone());
    let server = bucket_of(all).await;
    let room = Arc::new(room_with(registry(&[server.url()]), 2));
    let (bytes, most) = (Arc::new(Mutex::new(0_usize)), Arc::new(Mutex::new(0_usize)));
    let mut requests = tokio::task::JoinSet::new();
    for index in 0..REQUESTS {
        let mut materials: Vec<_> =
            bodies.iter().take(1 + index % 6).map(|body| material(0, body, 1)).collect();
        if index % 3 == 0 {
            materials.push(material(0, &large, 1));
        }
        let (room, bytes, most) = (Arc::clone(&room), Arc::clone(&bytes), Arc::clone(&most));
        requests.spawn(async move {
            let fetched = room.fetch_of(&materials).await.unwrap();
            let held: usize = fetched.ciphertexts.iter().map(|it| it.body.len()).sum();
            assert!(fetched.reservation.kib() * 1024 >= held);
            {
                let mut bytes = bytes.lock().unwrap();
                *bytes += held;
                let mut most = most.lock().unwrap();
                *most = (*most).max(*bytes);
            }
            assert!(room.reserved_kib() <= 2048);
            tokio::time::sleep(Duration::from_millis(5)).await;
            *bytes.lock().unwrap() -= held;
        });
    }
    let all = async {
        while let Some(joined) = requests.join_next().await {
            joined.unwrap();
        }
    };
    timeout(Duration::from_mins(2), all).await.expect("no deadlock");
    assert!(*most.lock().unwrap() <= 2 * 1024 * 1024);
    assert_eq!(room.reserved_kib(), 0);
}

#[tokio::test]
async fn the_largest_legal_request_fits_the_smallest_memory() {
    // 2048 bits as 1024 Bools, each of the full uncompressed size.
    let wanted = body(1, 65_600);
    let server = Server::always(serve(&wanted)).await;
    let room = room(&[&server]);
    let fetched = room.fetch_of(&vec![material(0, &wanted, 1); 1024]).await.unwrap();
    assert_eq!(fetched.ciphertexts.len(), 1024);
    drop(fetched);

    let wanted = body(2, 512 * 65_552 + 300);
    let server = Server::always(serve(&wanted)).await;
    let mut room = super::room(&[&server]);
    room.patience = DownloadTimeouts::default();
    let fetched = room.fetch_of(&[material(11, &wanted, 1)]).await.unwrap();
    assert_eq!(fetched.ciphertexts[0].body.len(), wanted.len());
}
