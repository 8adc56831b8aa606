//! Sealing of the stored copy of a hosted workspace (gateway.md 11.8): AES-256-GCM under the SHA-256 of the
//! workspace token. A hosted document holds secrets, and with another token it belongs to somebody else.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use sha2::{Digest as _, Sha256};

/// The key that a workspace token gives.
pub(super) struct SealingKey(RandomizedNonceKey);

impl SealingKey {
    /// The key of a token; `None` when the cipher is not to be had.
    pub(super) fn of(token: &str) -> Option<SealingKey> {
        RandomizedNonceKey::new(&AES_256_GCM, &Sha256::digest(token.as_bytes())).ok().map(SealingKey)
    }

    /// A random nonce, then the sealed bytes with their tag; `None` when the cipher refuses.
    pub(super) fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::empty(), &mut sealed).ok()?;
        let mut record = nonce.as_ref().to_vec();
        record.append(&mut sealed);
        Some(record)
    }

    /// What was sealed under the same token; `None` for anything else.
    pub(super) fn open(&self, record: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = record.split_at_checked(NONCE_LEN)?;
        let mut bytes = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = self.0.open_in_place(nonce, Aad::empty(), &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_opens_and_a_changed_byte_closes() {
        let key = SealingKey::of("token").unwrap();
        let sealed = key.seal(b"{\"a\":1}").unwrap();
        assert!(!sealed.windows(3).any(|part| part == b"\"a\""));
        assert_eq!(key.open(&sealed).unwrap(), b"{\"a\":1}");
        assert_ne!(key.seal(b"{\"a\":1}").unwrap(), sealed, "every record has its own nonce");
        assert_eq!(SealingKey::of("other").unwrap().open(&sealed), None);
        for at in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[at] ^= 1;
            assert_eq!(key.open(&broken), None, "byte {at}");
            assert_eq!(key.open(&sealed[..at]), None, "cut at {at}");
        }
    }
}
