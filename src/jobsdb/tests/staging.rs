//! Records of staging files.

use super::*;
use futures_util::FutureExt;

impl Kit {
    fn stage(&self, key: &str) -> u64 {
        let mut tx = Tx::new(Durability::Lazy);
        let id = self.jobs.stage(&mut tx, &StagingFile::new("s", "d", key));
        self.jobs.commit_blocking(tx).unwrap();
        id
    }

    fn staged_files(&self) -> Vec<(u64, StagingFile)> {
        let all = self.jobs.scan_between(Namespace::WarehouseStaging, &[0; 8], &[0xff; 8], 100).unwrap().into_iter();
        let read = |(key, value): (Vec<u8>, Vec<u8>)| {
            (u64::from_be_bytes(key.try_into().unwrap()), serde_json::from_slice(&value).unwrap())
        };
        all.map(read).collect()
    }
}

#[test]
fn staging_files_are_kept_by_ascending_id_and_wake_who_waits() {
    let kit = Kit::new();
    let staged = kit.jobs.staged();
    assert!(staged.notified().now_or_never().is_none());
    assert_eq!((kit.stage("a"), kit.stage("b")), (1, 2));
    assert!(staged.notified().now_or_never().is_some());
    let kit = kit.reopen();
    let expected = [(1, StagingFile::new("s", "d", "a")), (2, StagingFile::new("s", "d", "b"))];
    assert_eq!(kit.staged_files(), expected);
}

#[test]
fn the_id_of_a_deleted_staging_file_is_never_given_again() {
    let kit = Kit::new();
    // Committed in another order than that of their ids.
    let (mut early, mut late) = (Tx::new(Durability::Lazy), Tx::new(Durability::Lazy));
    let file = StagingFile::new("s", "d", "k");
    assert_eq!((kit.jobs.stage(&mut early, &file), kit.jobs.stage(&mut late, &file)), (1, 2));
    kit.jobs.commit_blocking(late).unwrap();
    kit.jobs.commit_blocking(early).unwrap();
    let mut tx = Tx::new(Durability::Durable);
    for id in [1_u64, 2] {
        tx.delete(Namespace::WarehouseStaging, id.to_be_bytes().to_vec());
    }
    kit.jobs.commit_blocking(tx).unwrap();
    let kit = kit.reopen();
    assert_eq!(kit.staged_files(), []);
    assert_eq!(kit.stage("next"), 3);
}
