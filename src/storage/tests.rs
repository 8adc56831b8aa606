use super::*;
use crate::settings::Settings;

fn open(directory: &Path) -> Result<Storage, StorageError> {
    let mut settings = Settings::defaults().storage;
    settings.allow_unsafe_fs = true;
    Storage::open(directory, &settings, &Clock::system())
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(StorageError::Locked { .. })));
    drop(first);
    open(folder.path()).unwrap();
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    std::fs::write(folder.path().join("FORMAT"), "pintle-data 2\n").unwrap();
    let error = open(folder.path()).err().unwrap();
    assert!(matches!(error, StorageError::NewerFormat { found: 2, supported: 1, .. }), "{error}");
    assert!(error.needs_human());
    std::fs::write(folder.path().join("FORMAT"), "something else\n").unwrap();
    assert!(matches!(open(folder.path()), Err(StorageError::NotADataDirectory { .. })));
}

#[test]
fn the_salt_survives_and_a_batch_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(folder.path()).unwrap();
    let salt = storage.format().salt;
    let mut batch = storage.batch(64);
    batch.put(Family::Jobs, b"b", b"2");
    batch.put(Family::Jobs, b"a", b"1");
    batch.put(Family::Index, b"a", b"other family");
    storage.write(batch).unwrap();
    storage.flush().unwrap();
    drop(storage);

    let storage = open(folder.path()).unwrap();
    assert_eq!(storage.format().salt, salt);
    assert_eq!(storage.get(Family::Jobs, b"a").unwrap().as_deref(), Some(&b"1"[..]));
    let values = storage.get_sorted(Family::Jobs, &[b"a", b"b", b"c"]).unwrap();
    assert_eq!(values, [Some(b"1".to_vec()), Some(b"2".to_vec()), None]);
    let mut scan = storage.scan(Family::Jobs, b"a", b"b").unwrap();
    assert_eq!(scan.next_entry().unwrap(), Some((&b"a"[..], &b"1"[..])));
    assert_eq!(scan.next_entry().unwrap(), None);
}

#[test]
fn a_checkpoint_opens_with_everything_written_before() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(folder.path()).unwrap();
    let mut batch = storage.batch(64);
    batch.put(Family::Jobs, b"k", b"v");
    storage.write(batch).unwrap();
    let copy = folder.path().join("snapshots/one");
    storage.checkpoint(&copy).unwrap();
    assert!(storage.checkpoint(&copy).is_err(), "the target must not exist");
    let restored = folder.path().join("restored");
    std::fs::create_dir_all(&restored).unwrap();
    std::fs::copy(folder.path().join("FORMAT"), restored.join("FORMAT")).unwrap();
    std::fs::rename(&copy, restored.join("db")).unwrap();
    let restored = open(&restored).unwrap();
    assert_eq!(restored.get(Family::Jobs, b"k").unwrap().as_deref(), Some(&b"v"[..]));
}
