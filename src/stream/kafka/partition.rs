//! Which partition a key goes to (router.md 15.1). librdkafka's own FNV-1a rule is another for half of all keys.

use rdkafka::producer::Partitioner;

use crate::event::fnv::fnv1a_32;

/// The partition of a key among `partitions`. An empty key is a key like any other.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (fnv1a_32(key) & 0x7fff_ffff).checked_rem(partitions).unwrap_or(0)
}

/// Puts records where their key says, whether that partition can be reached just now or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByKey;

impl Partitioner for ByKey {
    fn partition(&self, _topic: &str, key: Option<&[u8]>, partitions: i32, _is_available: impl Fn(i32) -> bool) -> i32 {
        let partition = partition_of(key.unwrap_or_default(), u32::try_from(partitions).unwrap_or(0));
        i32::try_from(partition).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_the_top_bit_of_their_hash_set_have_a_partition_too() {
        for (key, partitions, expected) in [("", 10, 3), ("a", 10, 2), ("foobar", 7, 5), ("a", 1, 0), ("a", 0, 0)] {
            assert_eq!(partition_of(key.as_bytes(), partitions), expected, "{key}");
        }
    }
}
