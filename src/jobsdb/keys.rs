//! Keys of the queues (storage-design.md 4): unsigned big-endian integers without separators, so that
//! byte order is the order in which they are read.

use super::api::Queue;

/// Kind bytes of the family `default`.
pub(super) const QUEUE: u8 = 0x02;
pub(super) const DATASET: u8 = 0x03;
pub(super) const PARTITION: u8 = 0x04;
pub(super) const JOURNAL: u8 = 0x05;
pub(super) const CLEAN_STOP: [u8; 1] = [0x07];
pub(super) const LAST_STAGING_FILE: [u8; 1] = [0x08];

/// Kind bytes of the family `idx`.
const READY: u8 = 0x10;
const DELAYED: u8 = 0x11;
const BLOCKED: u8 = 0x12;
const IMPORTING: u8 = 0x13;

/// Datasets with this bit hold jobs copied out of older ones.
pub(super) const CARRY_OVER: u32 = 0x8000_0000;

/// Which index a pending job is in; it is in exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Runnable.
    Ready,
    /// Waiting for this time, milliseconds since the epoch.
    Delayed(u64),
    /// Behind a failed job of the same user and destination.
    Blocked,
    /// Accepted by a bulk API.
    Importing,
}

/// A key of at most 24 bytes on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    bytes: [u8; 24],
    length: usize,
}

impl Key {
    fn new() -> Key {
        Key { bytes: [0; 24], length: 0 }
    }

    fn with(mut self, part: &[u8]) -> Key {
        let end = self.length + part.len();
        if let Some(slot) = self.bytes.get_mut(self.length..end) {
            slot.copy_from_slice(part);
            self.length = end;
        }
        self
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

pub(super) fn queue(queue: Queue) -> Key {
    Key::new().with(&[QUEUE, queue as u8])
}

pub(super) fn dataset(queue: Queue, number: u32) -> Key {
    Key::new().with(&[DATASET, queue as u8]).with(&number.to_be_bytes())
}

pub(super) fn partition(id: u32) -> Key {
    Key::new().with(&[PARTITION]).with(&id.to_be_bytes())
}

pub(super) fn journal(queue: Queue, op: u64) -> Key {
    Key::new().with(&[JOURNAL, queue as u8]).with(&op.to_be_bytes())
}

pub(super) fn job(queue: Queue, dataset: u32, id: u64) -> Key {
    Key::new().with(&[queue as u8]).with(&dataset.to_be_bytes()).with(&id.to_be_bytes())
}

/// Bounds of a dataset in `jobs` and `status`.
pub(super) fn dataset_range(queue: Queue, first: u32, last: u32) -> (Key, Key) {
    let from = Key::new().with(&[queue as u8]).with(&first.to_be_bytes());
    let to = match last.checked_add(1) {
        Some(next) => Key::new().with(&[queue as u8]).with(&next.to_be_bytes()),
        None => Key::new().with(&[queue as u8 + 1]),
    };
    (from, to)
}

pub(super) fn index(queue: Queue, partition: u32, id: u64, order_hash: u64, place: Place) -> Key {
    let key = Key::new();
    match place {
        Place::Ready => key.with(&[READY, queue as u8]).with(&partition.to_be_bytes()).with(&id.to_be_bytes()),
        Place::Delayed(due) => delayed(queue, due, partition, id),
        Place::Blocked => key
            .with(&[BLOCKED, queue as u8])
            .with(&order_hash.to_be_bytes())
            .with(&id.to_be_bytes())
            .with(&partition.to_be_bytes()),
        Place::Importing => key.with(&[IMPORTING, queue as u8]).with(&partition.to_be_bytes()).with(&id.to_be_bytes()),
    }
}

pub(super) fn delayed(queue: Queue, due_ms: u64, partition: u32, id: u64) -> Key {
    Key::new()
        .with(&[DELAYED, queue as u8])
        .with(&due_ms.to_be_bytes())
        .with(&partition.to_be_bytes())
        .with(&id.to_be_bytes())
}

/// Everything that waits behind a failed job of this user and destination, from job `id` on.
pub(super) fn blocked_range(queue: Queue, order_hash: u64, id: u64) -> (Key, Key) {
    let prefix = Key::new().with(&[BLOCKED, queue as u8]).with(&order_hash.to_be_bytes());
    (prefix.with(&id.to_be_bytes()), prefix.with(&[0xff; 12]))
}

/// Bounds of one kind of one queue in `idx`.
pub(super) fn kind_range(queue: Queue, place: Place) -> (Key, Key) {
    let kind = match place {
        Place::Ready => READY,
        Place::Delayed(_) => DELAYED,
        Place::Blocked => BLOCKED,
        Place::Importing => IMPORTING,
    };
    (Key::new().with(&[kind, queue as u8]), Key::new().with(&[kind, queue as u8 + 1]))
}

/// Job ids `[from, to)` of a partition's ready index.
pub(super) fn ready_range(queue: Queue, partition: u32, from: u64, to: u64) -> (Key, Key) {
    (index(queue, partition, from, 0, Place::Ready), index(queue, partition, to, 0, Place::Ready))
}

/// What an index key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexPosition {
    pub place: Place,
    pub partition: u32,
    pub id: u64,
}

/// Reads an index key of the given queue.
pub(super) fn parse_index(key: &[u8]) -> Option<IndexPosition> {
    let (kind, rest) = key.split_first()?;
    let (_, rest) = rest.split_first()?;
    match *kind {
        READY | IMPORTING => {
            let (partition, id) = rest.split_first_chunk::<4>()?;
            let place = if *kind == READY { Place::Ready } else { Place::Importing };
            Some(IndexPosition {
                place,
                partition: u32::from_be_bytes(*partition),
                id: u64::from_be_bytes(id.try_into().ok()?),
            })
        }
        DELAYED => {
            let (due, rest) = rest.split_first_chunk::<8>()?;
            let (partition, id) = rest.split_first_chunk::<4>()?;
            Some(IndexPosition {
                place: Place::Delayed(u64::from_be_bytes(*due)),
                partition: u32::from_be_bytes(*partition),
                id: u64::from_be_bytes(id.try_into().ok()?),
            })
        }
        BLOCKED => {
            let (_, rest) = rest.split_first_chunk::<8>()?;
            let (id, partition) = rest.split_first_chunk::<8>()?;
            Some(IndexPosition {
                place: Place::Blocked,
                partition: u32::from_be_bytes(partition.try_into().ok()?),
                id: u64::from_be_bytes(*id),
            })
        }
        _ => None,
    }
}

/// The 16-byte hash and the bucket of a deduplication key (storage-design.md 4.4).
pub(super) fn dedup(bucket: u32, hash: u128) -> Key {
    Key::new().with(&bucket.to_be_bytes()).with(&hash.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_documented_bytes() {
        assert_eq!(job(Queue::Rt, 7, 258).as_ref(), [2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(index(Queue::Gw, 3, 258, 0, Place::Ready).as_ref(), [0x10, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(
            index(Queue::Rt, 3, 258, 9, Place::Delayed(5)).as_ref(),
            [0x11, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2]
        );
        assert_eq!(
            index(Queue::Rt, 3, 258, 9, Place::Blocked).as_ref(),
            [0x12, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]
        );
        assert_eq!(dataset_range(Queue::Gw, 1, u32::MAX).1.as_ref(), [2]);
    }

    #[test]
    fn index_keys_are_read_back() {
        for place in [Place::Ready, Place::Delayed(77), Place::Blocked, Place::Importing] {
            let key = index(Queue::BatchRt, 5, u64::MAX - 1, 12, place);
            assert_eq!(parse_index(key.as_ref()), Some(IndexPosition { place, partition: 5, id: u64::MAX - 1 }));
        }
        assert_eq!(parse_index(&[0x10, 1, 2]), None);
        assert_eq!(parse_index(&[]), None);
    }
}
