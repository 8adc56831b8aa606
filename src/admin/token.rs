//! The admin token: made once, kept in `<data>/admin.token`, compared without leaking it (security.md 3.2).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Fewer characters than this are no secret.
const LEAST_CHARACTERS: usize = 32;

/// Why the token file cannot be used. The node runs without its TCP admin listener then.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Others may read it.
    #[error("admin token {} has mode {mode:04o}, so others may read it; chmod 600 it, or remove it to get a new one", path.display())]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is empty or can be guessed.
    #[error("admin token {} is shorter than 32 characters; remove it to get a new one", path.display())]
    Short {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or made.
    #[error("admin token {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The token, kept as its digest only.
#[derive(Clone)]
pub struct Token {
    digest: [u8; 32],
}

impl Token {
    /// Reads the token of a data directory, or makes one when there is none.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn load_or_create(data_dir: &Path) -> Result<Token, TokenError> {
        let path = data_dir.join("admin.token");
        let failed = |source| TokenError::File { path: path.clone(), source };
        match fs::metadata(&path) {
            Ok(metadata) => {
                let mode = metadata.mode() & 0o7777;
                if mode & 0o077 != 0 {
                    return Err(TokenError::Loose { path, mode });
                }
                let text = fs::read_to_string(&path).map_err(failed)?;
                let text = text.trim();
                if text.len() < LEAST_CHARACTERS {
                    return Err(TokenError::Short { path });
                }
                Ok(Token::of(text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = random_text().map_err(failed)?;
                create(&path, &text).map_err(failed)?;
                Ok(Token::of(&text))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether the text is the token; takes the same time wherever they differ.
    pub fn matches(&self, text: &str) -> bool {
        let other = Token::of(text);
        self.digest.iter().zip(other.digest).fold(0_u8, |difference, (a, b)| difference | (a ^ b)) == 0
    }

    fn of(text: &str) -> Token {
        Token { digest: Sha256::digest(text.as_bytes()).into() }
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// 32 bytes of the system's randomness in 43 characters.
fn random_text() -> io::Result<String> {
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_token_is_made_once_and_only_the_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = Token::load_or_create(dir.path()).unwrap();
        let path = dir.path().join("admin.token");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim().len(), 43);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(first.matches(text.trim()));
        assert!(!first.matches("something else"));
        assert!(Token::load_or_create(dir.path()).unwrap().matches(text.trim()));
    }

    #[test]
    fn a_token_that_others_may_read_or_guess_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        fs::write(&path, "x".repeat(43)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Token::load_or_create(dir.path()), Err(TokenError::Loose { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(matches!(Token::load_or_create(dir.path()), Err(TokenError::Short { .. })));
    }
}
