//! Kafka's 128-bit identifiers, written as 22 characters of unpadded base64url.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Characters of the text form: 21 of six bits, and one of the two bits that are left.
const TEXT_LEN: usize = 22;

/// An identifier of a topic, a directory or a cluster. All zero means "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The identifier that stands for none.
    pub const ZERO: Uuid = Uuid([0; 16]);
}

impl fmt::Display for Uuid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 128 bits and four of padding make 22 groups of six.
        let value = u128::from_be_bytes(self.0);
        let text = std::array::from_fn::<u8, TEXT_LEN, _>(|index| {
            let group = if index == TEXT_LEN - 1 { value << 4 } else { value >> (122 - 6 * index) };
            ALPHABET[(group & 0x3f) as usize]
        });
        formatter.pad(str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A text that is not 22 characters of base64url with nothing in the four bits of padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an identifier is 22 characters of base64url")]
pub struct UuidError;

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Uuid, UuidError> {
        let (last, groups) = text.as_bytes().split_last().ok_or(UuidError)?;
        if text.len() != TEXT_LEN {
            return Err(UuidError);
        }
        let bits = |character: &u8| {
            ALPHABET
                .iter()
                .position(|known| known == character)
                .map(|bits| bits as u128)
                .ok_or(UuidError)
        };
        let mut value = 0u128;
        for character in groups {
            value = value << 6 | bits(character)?;
        }
        let tail = bits(last)?;
        if tail & 0x0f != 0 {
            return Err(UuidError);
        }
        Ok(Uuid((value << 2 | tail >> 4).to_be_bytes()))
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            <[u8; 16]>::deserialize(deserializer).map(Uuid)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_kafkas() {
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        // Kafka's reserved identifier of the metadata topic is the number one.
        assert_eq!(Uuid(1u128.to_be_bytes()).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(Uuid([0xff; 16]).to_string(), "_____________________w");
    }

    #[test]
    fn text_form_round_trips() {
        let mut value = 1u128;
        for _ in 0..200 {
            value = value.wrapping_mul(0x0123_4567_89ab_cdef_fedc_ba98_7654_3215).wrapping_add(7);
            let uuid = Uuid(value.to_be_bytes());
            assert_eq!(uuid.to_string().parse(), Ok(uuid));
        }
        for wrong in [
            "",
            "AAAA",
            "AAAAAAAAAAAAAAAAAAAAAB",
            "AAAAAAAAAAAAAAAAAAAAA+",
            "AAAAAAAAAAAAAAAAAAAAAAA",
            "ééééééééééé",
        ] {
            assert_eq!(wrong.parse::<Uuid>(), Err(UuidError), "{wrong}");
        }
    }
}
