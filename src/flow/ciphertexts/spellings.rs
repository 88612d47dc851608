//! Under which of its possible names each bucket keeps ciphertexts.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{bucket::Bucket, object_key::Spelling};

/// Above this many buckets all are forgotten: they are learned anew.
const BUCKETS_REMEMBERED: usize = 256;

/// Which spelling each bucket used last, so that the usual ciphertext is found with one GET.
#[derive(Debug, Default)]
pub(super) struct LearnedSpellings(Mutex<HashMap<String, Spelling>>);

impl LearnedSpellings {
    /// All spellings of v0.14 in the order in which they are tried. The one that worked is the first; then
    /// the digest, under which ciphertexts from before v0.14 are stored, and which all others have as a copy.
    pub fn order(&self, bucket: &Bucket) -> [Spelling; 3] {
        use Spelling::{Digest, Handle, PrefixedHandle};
        let learned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match learned.get(&bucket.id) {
            None => [PrefixedHandle, Handle, Digest],
            Some(PrefixedHandle) => [PrefixedHandle, Digest, Handle],
            Some(Handle) => [Handle, Digest, PrefixedHandle],
            Some(Digest) => [Digest, PrefixedHandle, Handle],
        }
    }

    /// The bucket had a ciphertext under this spelling.
    pub fn record(&self, bucket: &Bucket, spelling: Spelling) {
        let mut learned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if learned.get(&bucket.id) == Some(&spelling) {
            return;
        }
        if learned.len() >= BUCKETS_REMEMBERED {
            learned.clear();
        }
        learned.insert(bucket.id.clone(), spelling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bucket_used_last_is_tried_first_there() {
        let learned = LearnedSpellings::default();
        let [one, other] = ["http://a/1", "http://b/1"].map(|base| Bucket::new(base).unwrap());
        assert_eq!(learned.order(&one)[0], Spelling::PrefixedHandle);
        for spelling in [Spelling::Handle, Spelling::Digest, Spelling::PrefixedHandle] {
            learned.record(&one, spelling);
            let order = learned.order(&one);
            assert_eq!(order[0], spelling);
            for each in [Spelling::Handle, Spelling::Digest, Spelling::PrefixedHandle] {
                assert!(order.contains(&each), "{order:?}");
            }
        }
        learned.record(&one, Spelling::Digest);
        assert_eq!(learned.order(&other)[0], Spelling::PrefixedHandle);
        for number in 0..1000 {
            let bucket = Bucket::new(&format!("http://h{number}/")).unwrap();
            learned.record(&bucket, Spelling::Handle);
            assert!(learned.0.lock().unwrap().len() <= BUCKETS_REMEMBERED);
        }
    }
}
