//! What the derive knows of a message, told to whoever holds it against Kafka's own schemas.

use bytes::Bytes;

use crate::{ErrorCode, Records, Uuid};

/// The type of a field, in the words of Kafka's schemas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `int16`, `string`, `uuid` and the like.
    Plain(&'static str),
    /// An array of something.
    Array(Box<Kind>),
    /// Fields in wire order.
    Struct(Vec<Field>),
}

/// A field of a message or of a struct within one. Ranges of versions are inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name here.
    pub name: &'static str,
    /// The versions that have it.
    pub versions: (i16, i16),
    /// Those in which it may be null.
    pub nullable: Option<(i16, i16)>,
    /// The tag under which it travels, if it does.
    pub tag: Option<u32>,
    /// Its default, as `Debug` shows it.
    pub default: String,
    /// Its type, whether or not it may be null.
    pub kind: Kind,
}

/// A type that can say of what it consists.
pub trait Shaped {
    /// Of what it consists.
    fn kind() -> Kind;
}

macro_rules! plain {
    ($($kind:ty = $name:literal),*) => {$(
        impl Shaped for $kind {
            fn kind() -> Kind {
                Kind::Plain($name)
            }
        }
    )*};
}

plain!(
    bool = "bool",
    i8 = "int8",
    i16 = "int16",
    u16 = "uint16",
    i32 = "int32",
    i64 = "int64",
    f64 = "float64",
    ErrorCode = "int16",
    Uuid = "uuid",
    String = "string",
    Bytes = "bytes",
    Records = "records"
);

impl<T: Shaped> Shaped for Vec<T> {
    fn kind() -> Kind {
        Kind::Array(Box::new(T::kind()))
    }
}

impl<T: Shaped> Shaped for Option<T> {
    fn kind() -> Kind {
        T::kind()
    }
}
