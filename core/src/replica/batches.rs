//! Batches in pieces: what the store reads and a push carries is a run of whole batches, cut into pieces anywhere.

use bytes::{Bytes, BytesMut};
use milena_wire::batch::{BatchError, BatchHeader, HEADER_LEN};

use crate::Offset;

/// The batches of a run, one after the other; after one that cannot be read, no more. Lengths are checked, checksums are not.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    /// What is left of the run, but for so many bytes of its first piece.
    rest: &'a [Bytes],
    skip: usize,
}

/// One whole batch of a run.
#[derive(Clone, Debug)]
pub struct WholeBatch<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// The run, with the batch at its front but for so many bytes.
    run: &'a [Bytes],
    skip: usize,
}

/// Divides a run into its batches. Nothing is copied.
pub fn split(run: &[Bytes]) -> Batches<'_> {
    Batches { rest: run, skip: 0 }
}

/// Offset after the last record of a run; none of an empty one.
pub fn end(run: &[Bytes]) -> Result<Option<Offset>, BatchError> {
    split(run).try_fold(None, |_, batch| Ok(Some(batch?.header.next_offset())))
}

/// The batches at the front of a run that so many bytes have room for; `one` at least, where it is to have any.
pub fn front(run: &[Bytes], bytes_max: usize, one: bool) -> Vec<Bytes> {
    let (mut kept, mut bytes) = (Vec::new(), 0);
    if end(run).is_err() {
        return kept;
    }
    for batch in split(run).flatten() {
        bytes += batch.header.size();
        if bytes > bytes_max && !(one && kept.is_empty()) {
            break;
        }
        kept.extend(batch.pieces());
    }
    kept
}

/// The header of the first batch of a run.
pub fn first(run: &[Bytes]) -> Result<BatchHeader, BatchError> {
    header(run, 0)
}

/// The header at the front of a run but for so many bytes.
fn header(run: &[Bytes], mut skip: usize) -> Result<BatchHeader, BatchError> {
    let (mut head, mut filled) = ([0; HEADER_LEN], 0);
    for part in run {
        let part = &part[skip..];
        skip = 0;
        let take = part.len().min(HEADER_LEN - filled);
        head[filled..filled + take].copy_from_slice(&part[..take]);
        filled += take;
        if filled == HEADER_LEN {
            break;
        }
    }
    BatchHeader::parse(&head[..filled])
}

impl<'a> Batches<'a> {
    /// Passes over so many bytes; how many of them there are not.
    fn pass(&mut self, mut bytes: usize) -> usize {
        while let Some(first) = self.rest.first() {
            let left = first.len() - self.skip;
            if bytes < left {
                self.skip += bytes;
                return 0;
            }
            bytes -= left;
            (self.rest, self.skip) = (&self.rest[1..], 0);
        }
        bytes
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<WholeBatch<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pass(0);
        if self.rest.is_empty() {
            return None;
        }
        let (run, skip) = (self.rest, self.skip);
        let batch = header(run, skip).and_then(|header| {
            let needed = header.size();
            match self.pass(needed) {
                0 => Ok(WholeBatch { header, run, skip }),
                missing => Err(BatchError::Truncated { needed, remaining: needed - missing }),
            }
        });
        if batch.is_err() {
            self.rest = &[];
        }
        Some(batch)
    }
}

impl<'a> WholeBatch<'a> {
    /// Its bytes, as they are cut. They are shared.
    pub fn pieces(&self) -> impl Iterator<Item = Bytes> + use<'a> {
        let (mut left, mut skip) = (self.header.size(), self.skip);
        let parts = self.run.iter().map_while(move |part| {
            (left > 0).then(|| {
                let from = std::mem::take(&mut skip);
                let upto = part.len().min(from + left);
                left -= upto - from;
                part.slice(from..upto)
            })
        });
        parts.filter(|part| !part.is_empty())
    }

    /// The batch in one piece; copies if it is in several.
    pub fn join(&self) -> Bytes {
        let size = self.header.size();
        match self.run {
            [first, ..] if first.len() - self.skip >= size => {
                first.slice(self.skip..self.skip + size)
            }
            _ => {
                let mut all = BytesMut::with_capacity(size);
                self.pieces().for_each(|part| all.extend_from_slice(&part));
                all.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use milena_wire::batch::{BatchBuilder, Compression, assign};

    use super::*;

    fn run() -> Bytes {
        let batch = |base: i64, records: i64| {
            let mut batch = BatchBuilder::new(0, -1, Compression::None);
            for time in 0..records {
                batch.append(time, None, Some(b"value"), &[]);
            }
            assign(&batch.build(), base, 3).concat()
        };
        [batch(7, 1), batch(8, 3), batch(11, 2)].concat().into()
    }

    #[test]
    fn a_run_is_the_same_wherever_it_is_cut() {
        let whole = run();
        let bases = |run: &[Bytes]| {
            let batches = split(run).map(|batch| batch.map(|batch| batch.header.base_offset));
            batches.collect::<Result<Vec<_>, _>>()
        };
        for cut in 0..=whole.len() {
            let run = [whole.slice(..cut), Bytes::new(), whole.slice(cut..), Bytes::new()];
            assert_eq!(bases(&run).expect("a run"), [7, 8, 11]);
            assert_eq!(end(&run), Ok(Some(13)));
            let joined: Vec<Bytes> = split(&run).flatten().map(|batch| batch.join()).collect();
            assert_eq!(joined.concat(), whole);
            let pieces: Vec<Bytes> = split(&run).flatten().flat_map(|b| b.pieces()).collect();
            assert_eq!(pieces.concat(), whole);
            assert_eq!(front(&run, usize::MAX, false).concat(), whole);
            assert_eq!(front(&run, 1, true).concat(), joined[0]);
            assert!(front(&run, 1, false).is_empty());
        }
    }

    #[test]
    fn a_run_that_ends_early_says_so() {
        let whole = run();
        let last = whole.len() - 1;
        for cut in 0..last {
            let run = [whole.slice(..cut), whole.slice(cut..last)];
            assert!(end(&run).is_err());
            assert_eq!(split(&run).filter(|batch| batch.is_ok()).count(), 2);
            assert!(front(&run, usize::MAX, true).is_empty());
        }
        assert_eq!(end(&[]), Ok(None));
    }
}
