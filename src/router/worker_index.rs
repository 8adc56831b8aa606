//! Which worker serves an order key (router.md 3.3): FNV-1a of 32 bits, so that jobs of one key meet one worker.

/// FNV-1a, 32 bits.
pub fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The worker of the key (`workspace:destination:user`) among `workers`.
pub fn of(order_key: &str, workers: usize) -> usize {
    let hash = usize::try_from(fnv1a_32(order_key.as_bytes())).unwrap_or(usize::MAX);
    hash.checked_rem(workers).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        for (text, hash) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            assert_eq!(fnv1a_32(text.as_bytes()), hash, "{text}");
        }
        assert_eq!(of("", 10), 1);
        assert_eq!(of("a", 0), 0);
    }
}
