//! The body of a request: read within the limits, and decompressed.

use std::io::{self, Read};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    HttpLimits,
    error::{ApiError, raised_with},
};

/// A body in memory, counted in the budget of all bodies.
#[derive(Debug)]
pub(crate) struct ReadBody<'a> {
    pub(crate) bytes: Vec<u8>,
    _permits: SemaphorePermit<'a>,
}

/// Reads a body that may be compressed with gzip.
pub(crate) async fn read<'a>(
    headers: &HeaderMap,
    body: Body,
    limits: &HttpLimits,
    budget: &'a Semaphore,
) -> Result<ReadBody<'a>, ApiError> {
    let is_compressed = match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity" | b"") => false,
        Some(b"gzip" | b"x-gzip") => true,
        Some(_) => {
            let message = "unknown content encoding: send gzip, or none";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
    };
    let mut read = Growing::new(limits.max_body_bytes, budget)?;
    let reading = timeout(limits.body_timeout, read_all(body, &mut read));
    reading.await.map_err(|_| {
        let (max, raised) = (limits.body_timeout, raised_with("body_timeout"));
        let message = format!("the body took longer than {max:?}; {raised}");
        ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
    })??;
    if is_compressed {
        let mut decompressed = Growing::new(limits.max_body_bytes, budget)?;
        decompress(&read.bytes, &mut decompressed).await?;
        read = decompressed;
    }
    Ok(ReadBody { bytes: read.bytes, _permits: read.permits })
}

/// Bytes that grow within a limit and a budget.
struct Growing<'a> {
    bytes: Vec<u8>,
    max: usize,
    budget: &'a Semaphore,
    permits: SemaphorePermit<'a>,
}

impl<'a> Growing<'a> {
    fn new(max: usize, budget: &'a Semaphore) -> Result<Self, ApiError> {
        let permits = budget.try_acquire_many(0).map_err(|_| too_much_memory())?;
        Ok(Self { bytes: Vec::new(), max, budget, permits })
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        if self.bytes.len() + bytes.len() > self.max {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(ApiError::limit(status, "max_body_bytes", self.max));
        }
        // At most 512 MiB.
        let count = bytes.len() as u32;
        let permits = self.budget.try_acquire_many(count).map_err(|_| too_much_memory())?;
        self.permits.merge(permits);
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

fn too_much_memory() -> ApiError {
    let message = "too many requests have a body: the limit is max_total_body_bytes";
    ApiError::unavailable(format!("{message}; {}", raised_with("max_total_body_bytes")))
}

async fn read_all(mut body: Body, read: &mut Growing<'_>) -> Result<(), ApiError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::bad_request("the body is incomplete"))?;
        if let Some(bytes) = frame.data_ref() {
            read.extend(bytes)?;
        }
    }
    Ok(())
}

/// Decompresses piece by piece, and lets other tasks of the thread run in between.
async fn decompress(compressed: &[u8], decompressed: &mut Growing<'_>) -> Result<(), ApiError> {
    let mut decoder = MultiGzDecoder::new(compressed);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match decoder.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(len) => decompressed.extend(&piece[..len])?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(ApiError::bad_request("unexpected EOF"));
            }
            Err(error) => return Err(ApiError::bad_request(format!("invalid gzip: {error}"))),
        }
        tokio::task::yield_now().await;
    }
}

/// How much is decompressed at a time, in bytes: some 100 us.
const PIECE_BYTES: usize = 64 * 1024;
