//! Bodies in pieces: from the wire into content files and back, with bounded memory whatever their length. A slow
//! peer slows its own connection, and one that stands still is cut.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt;
use md5::{Digest, Md5};
use moat_store::blobs::{Content, Reader};
use tokio::sync::Semaphore;

use super::refusal::Refusal;
use super::request::BlobCall;
use crate::http::pieces::Pieces;
use crate::server::Server;

/// Bytes held of one body.
const PIECE_BYTES: usize = 256 * 1024;
/// Bodies on their way at a time, each with some pieces in memory; further ones wait.
const STREAMS_MAX: usize = 128;
/// Time that a peer may stand still.
const STILL_SECONDS_MAX: Duration = Duration::from_secs(60);
/// What of a refused body is still read, so that the client sees the reason and not a broken connection.
const DISCARD_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The same for callers that are not known.
const DISCARD_BYTES_OF_STRANGERS_MAX: u64 = 8 * 1024 * 1024;
/// Longest body that is read whole: XML.
const XML_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Places for bodies. One for the process, since its memory is one.
static STREAMS: Semaphore = Semaphore::const_new(STREAMS_MAX);

/// What arrived.
pub(super) struct Received {
    pub(super) content: Content,
    /// Base64, if it was asked for.
    pub(super) md5: Option<String>,
}

/// Takes the body into the store. Checks its length and the sums that were sent with it; `with_md5` asks for one
/// also where none was sent.
pub(super) async fn receive(
    server: &Server,
    call: &mut BlobCall,
    bytes_max: u64,
    with_md5: bool,
) -> Result<Received, Refusal> {
    let length = call.length()?;
    if length > bytes_max {
        return Err(Refusal::too_large());
    }
    let wanted_md5 = sum(call, "content-md5", 16)?;
    let wanted_crc64 = sum(call, "x-ms-content-crc64", 8)?;
    let (mut md5, mut crc64) =
        ((with_md5 || wanted_md5.is_some()).then(Md5::new), wanted_crc64.is_some().then(Crc64::default));
    let Some(mut body) = call.body.take() else { return Err(Refusal::cut_short()) };
    let _place = STREAMS.acquire().await;
    let blobs = server.blobs.clone();
    let failed = |error| Refusal::store(server, "receiving a blob", &error);
    let mut upload = blocking(move || blobs.upload()).await.map_err(failed)?;
    let mut done = false;
    while !done {
        let mut piece = Vec::new();
        while piece.len() < PIECE_BYTES {
            match tokio::time::timeout(STILL_SECONDS_MAX, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        piece.extend_from_slice(&data);
                    }
                }
                Ok(None) => {
                    done = true;
                    break;
                }
                Ok(Some(Err(_))) | Err(_) => return Err(Refusal::cut_short()),
            }
        }
        if piece.is_empty() {
            continue;
        }
        let written = blocking(move || {
            if let Some(md5) = &mut md5 {
                md5.update(&piece);
            }
            if let Some(crc64) = &mut crc64 {
                crc64.update(&piece);
            }
            upload.write(&piece)?;
            Ok((upload, md5, crc64))
        });
        (upload, md5, crc64) = written.await.map_err(failed)?;
    }
    if upload.len() != length {
        return Err(Refusal::cut_short());
    }
    let md5 = md5.map(|md5| md5.finalize().to_vec());
    if wanted_md5.is_some_and(|wanted| Some(wanted) != md5) {
        return Err(Refusal::md5_mismatch());
    }
    if wanted_crc64.is_some_and(|wanted| Some(wanted) != crc64.map(|crc| crc.bytes().to_vec())) {
        return Err(Refusal::crc64_mismatch());
    }
    Ok(Received { content: upload.finish(), md5: md5.map(|md5| STANDARD.encode(md5)) })
}

/// A sum that the client sent.
fn sum(call: &BlobCall, name: &'static str, length: usize) -> Result<Option<Vec<u8>>, Refusal> {
    let Some(text) = call.header(name) else { return Ok(None) };
    let bytes = STANDARD.decode(text).ok().filter(|bytes| bytes.len() == length);
    bytes.map(Some).ok_or_else(|| Refusal::header(name))
}

/// A body that is XML, whole.
pub(super) async fn text(call: &mut BlobCall) -> Result<String, Refusal> {
    if call.length()? > XML_BYTES_MAX {
        return Err(Refusal::too_large());
    }
    let wanted_md5 = sum(call, "content-md5", 16)?;
    let Some(body) = call.body.take() else { return Err(Refusal::cut_short()) };
    let _place = STREAMS.acquire().await;
    match tokio::time::timeout(STILL_SECONDS_MAX, body.collect()).await {
        Ok(Ok(whole)) => {
            let bytes = whole.to_bytes();
            if wanted_md5.is_some_and(|wanted| wanted != Md5::digest(&bytes).to_vec()) {
                return Err(Refusal::md5_mismatch());
            }
            String::from_utf8(bytes.into()).map_err(|_| Refusal::xml())
        }
        _ => Err(Refusal::cut_short()),
    }
}

/// Reads and forgets what is left of a body that nobody wanted. `false`: the connection is to be closed.
pub(super) async fn discard(call: &mut BlobCall, known: bool) -> bool {
    let Some(mut body) = call.body.take() else { return true };
    let most = if known { DISCARD_BYTES_MAX } else { DISCARD_BYTES_OF_STRANGERS_MAX };
    let mut read = 0;
    while read <= most {
        match tokio::time::timeout(STILL_SECONDS_MAX, body.frame()).await {
            Ok(Some(Ok(frame))) => read += frame.data_ref().map_or(0, |data| data.len() as u64),
            Ok(None) => return true,
            Ok(Some(Err(_))) | Err(_) => return false,
        }
    }
    false
}

/// The content of a blob as a body. The next piece is read when the peer has taken the one before.
pub(super) fn send(mut reader: Reader) -> Pieces {
    let (sender, body) = Pieces::new();
    tokio::spawn(async move {
        let _place = STREAMS.acquire().await;
        loop {
            let read = blocking(move || reader.next(PIECE_BYTES).map(|piece| (piece, reader))).await;
            let piece = match read {
                Ok((Some(piece), left)) => {
                    reader = left;
                    Bytes::from(piece)
                }
                Ok((None, _)) => return,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "a blob could not be read to its end");
                    // Cut, so that nobody takes a part for the whole.
                    let _ = sender.send(Err(io::Error::other("the blob could not be read"))).await;
                    return;
                }
            };
            // Who is gone, or takes nothing for so long, gets no more; the length that was announced tells the part
            // from the whole.
            if !matches!(tokio::time::timeout(STILL_SECONDS_MAX, sender.send(Ok(piece))).await, Ok(Ok(()))) {
                return;
            }
        }
    });
    body
}

/// Copies content within the store.
pub(super) async fn copy(server: &Server, mut reader: Reader) -> Result<Received, Refusal> {
    let _place = STREAMS.acquire().await;
    let blobs = server.blobs.clone();
    let copied = blocking(move || {
        let mut upload = blobs.upload()?;
        while let Some(piece) = reader.next(PIECE_BYTES)? {
            upload.write(&piece)?;
        }
        Ok(upload.finish())
    });
    let content = copied.await.map_err(|error| Refusal::store(server, "copying a blob", &error))?;
    Ok(Received { content, md5: None })
}

/// MD5 of some bytes, as headers hold it.
pub(super) fn md5_of(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}

/// Runs what waits for a disk.
pub(super) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, moat_store::blobs::BlobError> + Send + 'static,
) -> Result<R, moat_store::blobs::BlobError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(moat_store::blobs::BlobError::Panicked))
}

/// The checksum of Azure Storage: CRC-64 with the polynomial 0x9A6C9329AC4BC9B5, reflected.
#[derive(Clone, Copy)]
struct Crc64(u64);

impl Default for Crc64 {
    fn default() -> Self {
        Self(u64::MAX)
    }
}

impl Crc64 {
    const TABLE: [u64; 256] = {
        let mut table = [0; 256];
        let mut n = 0;
        while n < 256 {
            let (mut value, mut bit) = (n as u64, 0);
            while bit < 8 {
                value = if value & 1 == 1 { (value >> 1) ^ 0x9A6C_9329_AC4B_C9B5 } else { value >> 1 };
                bit += 1;
            }
            table[n] = value;
            n += 1;
        }
        table
    };

    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = Self::TABLE[usize::from((self.0 as u8) ^ byte)] ^ (self.0 >> 8);
        }
    }

    fn bytes(self) -> [u8; 8] {
        (!self.0).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_standards() {
        let mut crc = Crc64::default();
        crc.update(b"12345");
        crc.update(b"6789");
        // The check value of CRC-64/NVME.
        assert_eq!(u64::from_le_bytes(crc.bytes()), 0xAE8B_1486_0A79_9888);
        assert_eq!(md5_of(b"hello"), "XUFAKrxLKna5cZ2REBfFkg==");
    }
}
