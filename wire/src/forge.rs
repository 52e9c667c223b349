//! Record batches that no producer of this workspace would build, for tests: sealed, so that only what they say is wrong.

use bytes::Bytes;

use crate::batch::{BatchHeader, HEADER_LEN};

/// Gives a batch the checksum of its bytes.
///
/// # Panics
///
/// Panics if it is shorter than a header.
pub fn seal(batch: &mut [u8]) {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32;
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// A copy of a batch with other records and another header, under a checksum that fits. The header's length fits the records
/// unless `alter` changes it.
///
/// # Panics
///
/// Panics if `batch` has no header.
pub fn forged(batch: &[u8], records: &[u8], alter: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut header = BatchHeader::parse(batch).expect("a batch");
    header.batch_length = (HEADER_LEN - 12 + records.len()) as i32;
    alter(&mut header);
    let mut bytes = [&header.to_bytes(), records].concat();
    seal(&mut bytes);
    bytes.into()
}
