//! Frames on a byte stream: four bytes of length, big-endian, then that many bytes. Kafka's clients and our own nodes both
//! speak so.
//!
//! What a length declares allocates nothing: the buffer grows as bytes arrive, or as far as a frame of this connection that
//! really came has shown. A frame that is read is a slice of the buffer, never a copy; writing gathers pieces without
//! joining them.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use crate::runtime::{AsyncReadExt, AsyncWriteExt, OwnedReadHalf, OwnedWriteHalf, TcpStream};

/// Room for the first bytes of a connection, and of any connection with small frames.
const ROOM_MIN: usize = 16 << 10;
/// From here on a frame gets a buffer of its own.
const LARGE: usize = 64 << 10;
/// Most that is read at once of a frame that is not small.
const STEP: usize = 256 << 10;
/// Pieces per write; the kernel takes 1024.
const PIECES_MAX: usize = 256;

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed the connection between two frames.
    #[error("closed by the other side")]
    Closed,
    /// It closed within one.
    #[error("closed by the other side in the middle of a frame")]
    Cut,
    /// The length is negative or above the limit.
    #[error("{}", describe(*.length, *.limit))]
    Length {
        /// As declared.
        length: i32,
        /// Largest that is taken.
        limit: usize,
    },
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn describe(length: i32, limit: usize) -> String {
    let bytes = length.to_be_bytes();
    let likely = match &bytes {
        b"GET " | b"POST" | b"HEAD" | b"PUT " => "; it looks like HTTP",
        [0x16, 0x03, ..] => "; it looks like TLS, which this listener does not speak",
        _ => "",
    };
    format!("a frame of {length} bytes where at most {limit} are taken{likely}")
}

/// Reads frames.
pub struct FrameReader {
    half: OwnedReadHalf,
    buffer: BytesMut,
    limit: usize,
    /// How large a frame this connection has really sent, with old ones slowly forgotten.
    shown: usize,
}

impl FrameReader {
    /// Reads frames of at most `limit` bytes.
    pub fn new(half: OwnedReadHalf, limit: usize) -> FrameReader {
        FrameReader { half, buffer: BytesMut::new(), limit, shown: 0 }
    }

    /// Bytes of a frame that has begun and is not whole.
    pub fn begun(&self) -> usize {
        self.buffer.len()
    }

    /// How much of the frame that has begun may be there after the next read: twice what has come, or a step more.
    pub fn growth(&self) -> usize {
        let (whole, come) = (self.length().ok().flatten().unwrap_or(0), self.buffer.len());
        whole.min((come + come.min(STEP)).max(LARGE))
    }

    /// The next frame if it has arrived already.
    pub fn ready(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.length()? else { return Ok(None) };
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        self.shown = length.max(self.shown / 8 * 7);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Reads what has come, waiting if nothing has.
    pub async fn read(&mut self) -> Result<(), FrameError> {
        let read = if self.buffer.is_empty() && self.shown >= LARGE {
            // Only the length, so that a large frame is read into a buffer that holds all of it.
            self.buffer = BytesMut::with_capacity(4);
            (&mut self.half).take(4).read_buf(&mut self.buffer).await?
        } else {
            let missing = match self.length()? {
                Some(length) => 4 + length - self.buffer.len(),
                None => 4,
            };
            let room = missing.min(self.buffer.len().max(self.shown)).max(ROOM_MIN);
            if self.buffer.capacity() - self.buffer.len() < missing.min(room) {
                self.buffer.reserve(room);
            }
            let most = self.growth().saturating_sub(self.buffer.len()).max(ROOM_MIN);
            (&mut self.half).take(most as u64).read_buf(&mut self.buffer).await?
        };
        match read {
            0 if self.buffer.is_empty() => Err(FrameError::Closed),
            0 => Err(FrameError::Cut),
            _ => Ok(()),
        }
    }

    /// Waits for the next frame.
    pub async fn next(&mut self) -> Result<Bytes, FrameError> {
        loop {
            if let Some(frame) = self.ready()? {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    fn length(&self) -> Result<Option<usize>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        length(*prefix, self.limit).map(Some)
    }
}

fn length(prefix: [u8; 4], limit: usize) -> Result<usize, FrameError> {
    let length = i32::from_be_bytes(prefix);
    match usize::try_from(length) {
        Ok(length) if length <= limit => Ok(length),
        _ => Err(FrameError::Length { length, limit }),
    }
}

/// Waits for the first frame of a connection and reads not a byte more, so that another thread can read what comes behind it.
pub async fn read_first(stream: &mut TcpStream, limit: usize) -> Result<Bytes, FrameError> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Closed,
        _ => FrameError::Io(error),
    })?;
    let length = length(prefix, limit)?;
    let mut frame = Vec::new();
    match stream.take(length as u64).read_to_end(&mut frame).await? {
        read if read < length => Err(FrameError::Cut),
        _ => Ok(frame.into()),
    }
}

/// Puts a frame's length and pieces behind others that wait to be written; the bytes that this adds.
pub fn push_frame(out: &mut VecDeque<Bytes>, frame: Vec<Bytes>) -> usize {
    let length: usize = frame.iter().map(Bytes::len).sum();
    let prefix = u32::try_from(length).expect("a frame is below 4 GiB");
    out.push_back(Bytes::copy_from_slice(&prefix.to_be_bytes()));
    out.extend(frame.into_iter().filter(|piece| !piece.is_empty()));
    4 + length
}

/// Writes some of what waits, as much as the socket takes at once; the bytes that left.
pub async fn write_some(half: &mut OwnedWriteHalf, out: &mut VecDeque<Bytes>) -> io::Result<usize> {
    let slices: Vec<IoSlice<'_>> =
        out.iter().take(PIECES_MAX).map(|piece| IoSlice::new(piece)).collect();
    let written = half.write_vectored(&slices).await?;
    drop(slices);
    if written == 0 && !out.is_empty() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut left = written;
    while let Some(piece) = out.front_mut() {
        if left < piece.len() {
            piece.advance(left);
            break;
        }
        left -= piece.len();
        out.pop_front();
    }
    Ok(written)
}
