//! Batches in pieces: what the store reads and a push carries is a run of whole batches, cut into pieces anywhere.

use bytes::{Bytes, BytesMut};
use milena_wire::batch::{self, BatchError, BatchHeader, HEADER_LEN};

/// One whole batch of a run.
#[derive(Debug)]
pub struct WholeBatch {
    /// Its header.
    pub header: BatchHeader,
    /// Its bytes, in one or more parts.
    pub bytes: Vec<Bytes>,
}

/// Splits a run into its batches. Bytes are shared, not copied. Lengths are checked, checksums are not.
pub fn split(run: &[Bytes]) -> Result<Vec<WholeBatch>, BatchError> {
    let mut rest = run.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>();
    rest.reverse();
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let header = header(rest.iter().rev())?;
        let mut needed = header.size();
        let mut bytes = Vec::with_capacity(2);
        while needed > 0 {
            let Some(mut part) = rest.pop() else {
                return Err(BatchError::Truncated {
                    needed: header.size(),
                    remaining: header.size() - needed,
                });
            };
            if part.len() > needed {
                rest.push(part.split_off(needed));
            }
            needed -= part.len();
            bytes.push(part);
        }
        batches.push(WholeBatch { header, bytes });
    }
    Ok(batches)
}

/// The batches at the front of a run that so many bytes have room for; `one` at least, where it is to have any.
pub fn front(run: &[Bytes], bytes_max: usize, one: bool) -> Vec<Bytes> {
    let (mut kept, mut bytes) = (Vec::new(), 0);
    for batch in split(run).unwrap_or_default() {
        bytes += batch.header.size();
        if bytes > bytes_max && !(one && kept.is_empty()) {
            break;
        }
        kept.extend(batch.bytes);
    }
    kept
}

/// The header of the first batch of a run.
pub fn first(run: &[Bytes]) -> Result<BatchHeader, BatchError> {
    header(run.iter())
}

fn header<'a>(parts: impl Iterator<Item = &'a Bytes>) -> Result<BatchHeader, BatchError> {
    let (mut head, mut filled) = ([0; HEADER_LEN], 0);
    for part in parts {
        let take = part.len().min(HEADER_LEN - filled);
        head[filled..filled + take].copy_from_slice(&part[..take]);
        filled += take;
        if filled == HEADER_LEN {
            break;
        }
    }
    BatchHeader::parse(&head[..filled])
}

impl WholeBatch {
    /// The batch in one piece; copies if it is in several.
    pub fn join(&self) -> Bytes {
        if let [whole] = &self.bytes[..] {
            return whole.clone();
        }
        let mut all = BytesMut::with_capacity(self.header.size());
        self.bytes.iter().for_each(|part| all.extend_from_slice(part));
        all.freeze()
    }

    /// Checks checksum and counts, as everything that came over a network must be before it is kept.
    pub fn validate(&self) -> Result<(), BatchError> {
        batch::validate(&self.join()).map(|_| ())
    }
}
