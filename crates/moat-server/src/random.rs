//! The one place of the server that makes ids, seeds and secrets.

use aws_lc_rs::rand;
use base64::Engine;
use uuid::Uuid;

use crate::secrets::Secret;

/// Bytes of a client secret: 256 bits cannot be guessed.
const SECRET_BYTES: usize = 32;

/// The system gave no randomness; nothing safe can be done without.
#[derive(Debug, thiserror::Error)]
#[error("the system has no randomness to give")]
pub struct NoRandomness;

/// A fresh random id.
pub fn uuid() -> Uuid {
    Uuid::new_v4()
}

/// A fresh secret, printable.
pub fn secret() -> Result<Secret, NoRandomness> {
    let mut bytes = [0; SECRET_BYTES];
    rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(Secret::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)))
}
