//! Kafka's primitive types: the integers, strings, bytes and arrays that messages are made of.

use bytes::Bytes;

use crate::{
    ErrorCode, Uuid,
    codec::{Codec, DecodeError, Decoder, Encoder, Nullable},
};

macro_rules! fixed_width {
    ($($kind:ty),*) => {$(
        impl Codec for $kind {
            fn encode(&self, out: &mut Encoder) {
                out.put(&self.to_be_bytes());
            }

            fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
                input.array().map(<$kind>::from_be_bytes)
            }

            fn encoded_size_min(_version: i16, _flexible: bool) -> usize {
                size_of::<$kind>()
            }
        }
    )*};
}

fixed_width!(i8, i16, u16, i32, i64, f64);

impl Codec for bool {
    fn encode(&self, out: &mut Encoder) {
        out.put_i8(i8::from(*self));
    }

    fn decode(input: &mut Decoder) -> Result<bool, DecodeError> {
        // As in Kafka, any other byte than zero is true.
        input.i8().map(|byte| byte != 0)
    }

    fn encoded_size_min(_version: i16, _flexible: bool) -> usize {
        1
    }
}

impl Codec for Uuid {
    fn encode(&self, out: &mut Encoder) {
        out.put(&self.0);
    }

    fn decode(input: &mut Decoder) -> Result<Uuid, DecodeError> {
        input.array().map(Uuid)
    }

    fn encoded_size_min(_version: i16, _flexible: bool) -> usize {
        16
    }
}

impl Codec for ErrorCode {
    fn encode(&self, out: &mut Encoder) {
        out.put_i16(self.0);
    }

    fn decode(input: &mut Decoder) -> Result<ErrorCode, DecodeError> {
        input.i16().map(ErrorCode)
    }

    fn errors(&self, each: &mut dyn FnMut(ErrorCode)) {
        each(*self);
    }

    fn encoded_size_min(_version: i16, _flexible: bool) -> usize {
        2
    }
}

impl Codec for String {
    fn encode(&self, out: &mut Encoder) {
        out.put_string(Some(self));
    }

    fn decode(input: &mut Decoder) -> Result<String, DecodeError> {
        input.string()?.ok_or(DecodeError::UnexpectedNull)
    }

    fn encoded_size_min(_version: i16, flexible: bool) -> usize {
        if flexible { 1 } else { 2 }
    }
}

impl Nullable for String {
    fn encode_null(out: &mut Encoder) {
        out.put_string(None);
    }

    fn encode_present(&self, out: &mut Encoder) {
        self.encode(out);
    }

    fn decode_nullable(input: &mut Decoder) -> Result<Option<String>, DecodeError> {
        input.string()
    }

    fn nullable_size_min(version: i16, flexible: bool) -> usize {
        String::encoded_size_min(version, flexible)
    }
}

/// The null forms of what starts with a length (not strings, whose plain length is shorter).
macro_rules! null_by_length {
    ($decode:ident) => {
        fn encode_null(out: &mut Encoder) {
            out.put_length(None);
        }

        fn encode_present(&self, out: &mut Encoder) {
            self.encode(out);
        }

        fn decode_nullable(input: &mut Decoder) -> Result<Option<Self>, DecodeError> {
            input.$decode()
        }

        fn nullable_size_min(version: i16, flexible: bool) -> usize {
            Self::encoded_size_min(version, flexible)
        }
    };
}

impl Codec for Bytes {
    fn encode(&self, out: &mut Encoder) {
        out.put_length(Some(self.len()));
        out.put_shared(self);
    }

    fn decode(input: &mut Decoder) -> Result<Bytes, DecodeError> {
        input.shared()?.ok_or(DecodeError::UnexpectedNull)
    }

    fn encoded_size_min(_version: i16, flexible: bool) -> usize {
        if flexible { 1 } else { 4 }
    }
}

impl Nullable for Bytes {
    null_by_length!(shared);
}

impl<T: Codec> Codec for Vec<T> {
    fn encode(&self, out: &mut Encoder) {
        out.put_length(Some(self.len()));
        for element in self {
            element.encode(out);
        }
    }

    fn decode(input: &mut Decoder) -> Result<Vec<T>, DecodeError> {
        input.elements()?.ok_or(DecodeError::UnexpectedNull)
    }

    fn errors(&self, each: &mut dyn FnMut(ErrorCode)) {
        self.iter().for_each(|element| element.errors(each));
    }

    fn encoded_size_min(_version: i16, flexible: bool) -> usize {
        if flexible { 1 } else { 4 }
    }
}

impl<T: Codec> Nullable for Vec<T> {
    null_by_length!(elements);
}

/// The record batches of one partition in a fetch reply: pieces of memory that follow one another on the wire and are
/// sent without being joined. Two are equal when their bytes are, however they are cut.
#[derive(Clone, Default)]
pub struct Records(pub Vec<Bytes>);

impl Records {
    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in one piece; copies them unless they are in one piece already.
    pub fn to_bytes(&self) -> Bytes {
        match self.0.as_slice() {
            [only] => only.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Records {
        Records(vec![bytes])
    }
}

impl PartialEq for Records {
    fn eq(&self, other: &Records) -> bool {
        self.0.iter().flatten().eq(other.0.iter().flatten())
    }
}

impl Eq for Records {}

impl std::fmt::Debug for Records {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Records({} bytes)", self.len())
    }
}

impl Codec for Records {
    fn encode(&self, out: &mut Encoder) {
        out.put_length(Some(self.len()));
        for piece in &self.0 {
            out.put_shared(piece);
        }
    }

    fn decode(input: &mut Decoder) -> Result<Records, DecodeError> {
        Bytes::decode(input).map(Records::from)
    }

    fn encoded_size_min(version: i16, flexible: bool) -> usize {
        Bytes::encoded_size_min(version, flexible)
    }
}

impl Nullable for Records {
    fn encode_null(out: &mut Encoder) {
        out.put_length(None);
    }

    fn encode_present(&self, out: &mut Encoder) {
        self.encode(out);
    }

    fn decode_nullable(input: &mut Decoder) -> Result<Option<Records>, DecodeError> {
        Ok(input.shared()?.map(Records::from))
    }

    fn nullable_size_min(version: i16, flexible: bool) -> usize {
        Records::encoded_size_min(version, flexible)
    }
}
