//! Which worker serves an order key (router.md 3.3): FNV-1a of 32 bits, so that jobs of one key meet one worker.

use crate::event::fnv::fnv1a_32;

/// The worker of the key (`workspace:destination:user`) among `workers`.
pub fn of(order_key: &str, workers: usize) -> usize {
    let hash = usize::try_from(fnv1a_32(order_key.as_bytes())).unwrap_or(usize::MAX);
    hash.checked_rem(workers).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_always_meets_the_same_worker() {
        assert_eq!(of("", 10), 1);
        assert_eq!(of("a", 0), 0);
    }
}
