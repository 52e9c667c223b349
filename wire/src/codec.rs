//! The bounded codec: how Kafka's primitive types, arrays, structs and tagged fields stand on the wire.
//!
//! Encoder and decoder carry the version and whether it is flexible (compact lengths, tagged fields), so a type knows
//! its form without being told again at each level. The decoder trusts nothing: a declared length or count is held
//! against the bytes that remain before anything is allocated, and what all arrays and strings of a frame may occupy in
//! memory together is capped, since one byte on the wire can stand for a struct of a hundred.
//!
//! Record bytes are never copied: decoded they are slices of the frame, encoded they become segments of their own.

use std::mem;

use bytes::{BufMut, Bytes, BytesMut};

use crate::ErrorCode;
use crate::api_names::ApiName;

/// Memory that any frame may take while it is decoded, in bytes, however short it is.
const MEMORY_FLOOR: usize = 8 << 20;
/// Memory that a frame may take while it is decoded, per byte of its own.
const MEMORY_PER_FRAME_BYTE: usize = 4;
/// Kafka's longest string, in bytes, in the compact form as well.
const STRING_SIZE_MAX: usize = i16::MAX as usize;

/// Why a frame is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A field or a declared length reaches past the end of the frame (or of its tagged field).
    #[error("{needed} bytes are needed where {remaining} remain")]
    UnexpectedEnd {
        /// Bytes the field needs.
        needed: usize,
        /// Bytes left.
        remaining: usize,
    },
    /// A length or count below -1.
    #[error("length {0} is below -1")]
    NegativeLength(i64),
    /// Null where this version of the message does not allow it, or a marker that is neither null nor present.
    #[error("null or an unknown marker where a value must stand")]
    UnexpectedNull,
    /// An array that declares more elements than the remaining bytes can hold.
    #[error("an array of {count} elements cannot fit into {remaining} bytes")]
    ArrayTooLong {
        /// Declared elements.
        count: usize,
        /// Bytes left.
        remaining: usize,
    },
    /// A string above Kafka's limit of 32,767 bytes.
    #[error("a string of {0} bytes is longer than 32767")]
    StringTooLong(usize),
    /// Decoded, the message would occupy far more memory than its frame.
    #[error("the message would take more than {0} bytes of memory")]
    MemoryLimit(usize),
    /// A variable-length integer that is wider than its type or padded with empty groups.
    #[error("a variable-length integer is too long")]
    VarintTooLong,
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    InvalidUtf8,
    /// Tagged fields that repeat or are not in ascending order.
    #[error("tag {0} is repeated or out of order")]
    TagOrder(u32),
    /// A known tagged field that is shorter than its declared size.
    #[error("tag {0} does not fill its declared size")]
    TagSize(u32),
    /// An API key or version that this crate does not speak.
    #[error("version {api_version} of {} is not supported", ApiName(*api_key))]
    Unsupported {
        /// Kafka's number of the API.
        api_key: i16,
        /// The version asked for.
        api_version: i16,
    },
}

/// A type with a place on the wire.
pub trait Codec: Sized {
    /// Writes the value in the encoder's version.
    fn encode(&self, out: &mut Encoder);
    /// Reads a value in the decoder's version; fails on anything that is not one.
    fn decode(input: &mut Decoder) -> Result<Self, DecodeError>;
    /// The fewest bytes a value can take; bounds how many elements an array may declare.
    fn encoded_size_min(version: i16, flexible: bool) -> usize;
    /// Gives each error code in the value, also those that say that nothing went wrong. Most types have none.
    fn errors(&self, _each: &mut dyn FnMut(ErrorCode)) {}
}

/// A type that has a form for null. The default is that of a struct: a byte, -1 for null and 1 before a value.
pub trait Nullable: Codec {
    /// Writes null.
    fn encode_null(out: &mut Encoder) {
        out.put_i8(-1);
    }
    /// Writes a value where null could stand.
    fn encode_present(&self, out: &mut Encoder) {
        out.put_i8(1);
        self.encode(out);
    }
    /// Reads a value or null.
    fn decode_nullable(input: &mut Decoder) -> Result<Option<Self>, DecodeError> {
        match input.i8()? {
            -1 => Ok(None),
            1 => Self::decode(input).map(Some),
            _ => Err(DecodeError::UnexpectedNull),
        }
    }
    /// The fewest bytes a value or null can take.
    fn nullable_size_min(_version: i16, _flexible: bool) -> usize {
        1
    }
}

/// A message that is the body of a request or response.
pub trait TopLevel: Codec {
    /// Kafka's number of the API.
    const API_KEY: i16;
    /// First version served.
    const VERSION_MIN: i16;
    /// Last version served.
    const VERSION_MAX: i16;
    /// First version with compact lengths and tagged fields.
    const FLEXIBLE_MIN: i16;
}

/// Writes a field that may be null at some versions. At a version that has no null for it, `None` becomes the empty
/// value: a reply is built once, for whatever version the client speaks.
pub(crate) fn encode_option<T: Nullable + Default>(
    value: &Option<T>,
    nullable: bool,
    out: &mut Encoder,
) {
    match value {
        Some(value) if nullable => value.encode_present(out),
        Some(value) => value.encode(out),
        None if nullable => T::encode_null(out),
        None => T::default().encode(out),
    }
}

/// Reads a field that may be null if `nullable`.
pub(crate) fn decode_option<T: Nullable>(
    nullable: bool,
    input: &mut Decoder,
) -> Result<Option<T>, DecodeError> {
    if nullable { T::decode_nullable(input) } else { T::decode(input).map(Some) }
}

/// The fewest bytes of a field that may be null if `nullable`.
pub(crate) fn option_size_min<T: Nullable>(nullable: bool, version: i16, flexible: bool) -> usize {
    if nullable {
        T::nullable_size_min(version, flexible)
    } else {
        T::encoded_size_min(version, flexible)
    }
}

/// Writes one message as a list of segments: record bytes keep their own memory, everything between is gathered.
pub struct Encoder {
    version: i16,
    flexible: bool,
    segments: Vec<Bytes>,
    current: BytesMut,
}

impl Encoder {
    /// An empty encoder for one version of one message.
    pub fn new(version: i16, flexible: bool) -> Encoder {
        Encoder { version, flexible, segments: Vec::new(), current: BytesMut::with_capacity(256) }
    }

    /// The version that is being written.
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Whether lengths are compact and tagged fields present.
    pub fn flexible(&self) -> bool {
        self.flexible
    }

    /// The message as segments, in order.
    pub fn finish(mut self) -> Vec<Bytes> {
        self.flush();
        self.segments
    }

    fn flush(&mut self) {
        if !self.current.is_empty() {
            self.segments.push(self.current.split().freeze());
        }
    }

    pub(crate) fn put_i8(&mut self, value: i8) {
        self.current.put_i8(value);
    }

    pub(crate) fn put_i16(&mut self, value: i16) {
        self.current.put_i16(value);
    }

    pub(crate) fn put_i32(&mut self, value: i32) {
        self.current.put_i32(value);
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.current.put_slice(bytes);
    }

    pub(crate) fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.current.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.current.put_u8(value as u8);
    }

    /// Appends bytes as a segment of their own, sharing their memory.
    pub(crate) fn put_shared(&mut self, bytes: &Bytes) {
        if !bytes.is_empty() {
            self.flush();
            self.segments.push(bytes.clone());
        }
    }

    /// The length of an array or of bytes; `None` is null.
    pub(crate) fn put_length(&mut self, length: Option<usize>) {
        let length =
            length.map(|length| i32::try_from(length).expect("a length on the wire fits 31 bits"));
        if self.flexible {
            self.unsigned_varint(length.map_or(0, |length| length as u32 + 1));
        } else {
            self.put_i32(length.unwrap_or(-1));
        }
    }

    pub(crate) fn put_string(&mut self, text: Option<&str>) {
        if !self.flexible {
            return self.put_classic_string(text);
        }
        let text = text.map(cut_string);
        self.put_length(text.map(str::len));
        self.put(text.unwrap_or_default().as_bytes());
    }

    /// A string in the form of versions that are not flexible, and of request headers in all.
    pub(crate) fn put_classic_string(&mut self, text: Option<&str>) {
        let text = text.map(cut_string);
        self.put_i16(text.map_or(-1, |text| text.len() as i16));
        self.put(text.unwrap_or_default().as_bytes());
    }

    /// Writes one tagged field: tag, size, and what `body` writes. Record bytes never travel in one.
    pub(crate) fn tagged(&mut self, tag: u32, body: impl FnOnce(&mut Encoder)) {
        let outer = mem::take(&mut self.current);
        let segments = self.segments.len();
        body(self);
        assert_eq!(segments, self.segments.len(), "shared bytes in a tagged field");
        let inner = mem::replace(&mut self.current, outer);
        self.unsigned_varint(tag);
        self.unsigned_varint(u32::try_from(inner.len()).expect("a tagged field fits 32 bits"));
        self.put(&inner);
    }
}

/// A string as it can be written: what is above Kafka's limit ends there. What came in by this codec is within it, so only a
/// text that was made of such strings can be cut, and a client would rather read its beginning than lose its broker.
fn cut_string(text: &str) -> &str {
    &text[..text.floor_char_boundary(STRING_SIZE_MAX)]
}

/// Reads one frame, never past its end, never allocating more than it can account for.
pub struct Decoder {
    version: i16,
    flexible: bool,
    frame: Bytes,
    position: usize,
    /// End of what may be read now: of the frame, or of the tagged field being read.
    end: usize,
    memory_limit: usize,
    memory_left: usize,
}

impl Decoder {
    /// A decoder at the start of `frame`; version 0 and not flexible until [`Decoder::set_version`].
    pub fn new(frame: Bytes) -> Decoder {
        let end = frame.len();
        let memory_limit = MEMORY_FLOOR.saturating_add(end.saturating_mul(MEMORY_PER_FRAME_BYTE));
        Decoder {
            version: 0,
            flexible: false,
            frame,
            position: 0,
            end,
            memory_limit,
            memory_left: memory_limit,
        }
    }

    /// Sets the version to read from here on.
    pub fn set_version(&mut self, version: i16, flexible: bool) {
        self.version = version;
        self.flexible = flexible;
    }

    /// The version that is being read.
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Whether lengths are compact and tagged fields present.
    pub fn flexible(&self) -> bool {
        self.flexible
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.end - self.position
    }

    fn take(&mut self, size: usize) -> Result<&[u8], DecodeError> {
        let remaining = self.remaining();
        if size > remaining {
            return Err(DecodeError::UnexpectedEnd { needed: size, remaining });
        }
        let start = self.position;
        self.position += size;
        Ok(&self.frame[start..self.position])
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("take returns what is asked"))
    }

    pub(crate) fn i8(&mut self) -> Result<i8, DecodeError> {
        self.array().map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            // Five groups hold 35 bits: the last may bring only four. An empty last group is padding.
            if shift == 28 && byte > 0x0f || shift > 0 && byte == 0 {
                return Err(DecodeError::VarintTooLong);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::VarintTooLong)
    }

    fn length_of(declared: i64) -> Result<Option<usize>, DecodeError> {
        match declared {
            -1 => Ok(None),
            0.. => Ok(Some(declared as usize)),
            _ => Err(DecodeError::NegativeLength(declared)),
        }
    }

    /// The length of an array or of bytes; `None` is null.
    pub(crate) fn length(&mut self) -> Result<Option<usize>, DecodeError> {
        let declared = if self.flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else {
            i64::from(self.i32()?)
        };
        Self::length_of(declared)
    }

    /// A string; `None` is null.
    pub(crate) fn string(&mut self) -> Result<Option<String>, DecodeError> {
        let Some(bytes) = self.string_bytes()? else { return Ok(None) };
        let text = str::from_utf8(bytes).map_err(|_| DecodeError::InvalidUtf8)?;
        Ok(Some(text.to_owned()))
    }

    /// A string that only names something to people: what is no UTF-8 of it is replaced.
    pub(crate) fn lossy_string(&mut self) -> Result<Option<String>, DecodeError> {
        Ok(self.string_bytes()?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    }

    fn string_bytes(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        let length =
            if self.flexible { self.length()? } else { Self::length_of(i64::from(self.i16()?))? };
        let Some(length) = length else { return Ok(None) };
        if length > STRING_SIZE_MAX {
            return Err(DecodeError::StringTooLong(length));
        }
        self.charge(length)?;
        self.take(length).map(Some)
    }

    /// Bytes that share the frame's memory; `None` is null.
    pub(crate) fn shared(&mut self) -> Result<Option<Bytes>, DecodeError> {
        let Some(length) = self.length()? else { return Ok(None) };
        let start = self.position;
        self.take(length)?;
        Ok(Some(self.frame.slice(start..self.position)))
    }

    /// An array; `None` is null.
    pub(crate) fn elements<T: Codec>(&mut self) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(count) = self.length()? else { return Ok(None) };
        let remaining = self.remaining();
        let element_size_min = T::encoded_size_min(self.version, self.flexible).max(1);
        if count > remaining / element_size_min {
            return Err(DecodeError::ArrayTooLong { count, remaining });
        }
        self.charge(count.saturating_mul(size_of::<T>()))?;
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(T::decode(self)?);
        }
        Ok(Some(elements))
    }

    fn charge(&mut self, size: usize) -> Result<(), DecodeError> {
        self.memory_left = self
            .memory_left
            .checked_sub(size)
            .ok_or(DecodeError::MemoryLimit(self.memory_limit))?;
        Ok(())
    }

    /// Reads the tagged fields that end a struct. `read` sees each tag with the decoder confined to its bytes, and
    /// reads all of them or calls [`Decoder::skip_rest`].
    pub(crate) fn tagged_fields(
        &mut self,
        mut read: impl FnMut(u32, &mut Decoder) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.unsigned_varint()?;
        let mut previous = None;
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            if previous.is_some_and(|previous| tag <= previous) {
                return Err(DecodeError::TagOrder(tag));
            }
            previous = Some(tag);
            let size = self.unsigned_varint()? as usize;
            let remaining = self.remaining();
            if size > remaining {
                return Err(DecodeError::UnexpectedEnd { needed: size, remaining });
            }
            let outer_end = mem::replace(&mut self.end, self.position + size);
            read(tag, self)?;
            if self.remaining() > 0 {
                return Err(DecodeError::TagSize(tag));
            }
            self.end = outer_end;
        }
        Ok(())
    }

    /// Passes over what is left of the tagged field being read.
    pub(crate) fn skip_rest(&mut self) {
        self.position = self.end;
    }
}
