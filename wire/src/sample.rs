//! Arbitrary messages for property tests: every type draws a value of itself from a [`Source`] of numbers.
//!
//! Only what a version can carry is drawn; the rest keeps its default, so a sampled message survives a round trip.

use bytes::Bytes;

use crate::{ErrorCode, Records, Uuid, codec::Nullable};

/// A deterministic stream of numbers, and how deep the value being drawn is nested.
pub struct Source {
    state: u64,
    depth: u32,
}

impl Source {
    /// A stream that depends on `seed` alone.
    pub fn new(seed: u64) -> Source {
        Source { state: seed, depth: 0 }
    }

    /// The next number (splitmix64).
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// An integer's worth of bits: often the extremes and small numbers, where codecs err.
    fn integer(&mut self) -> i64 {
        match self.below(8) {
            0 => 0,
            1 => -1,
            2 => i64::MAX,
            3 => i64::MIN,
            4 | 5 => self.below(300) as i64 - 20,
            _ => self.next_u64() as i64,
        }
    }

    /// A length, mostly short, now and then past the first groups of a variable-length integer.
    fn length(&mut self) -> usize {
        match self.below(16) {
            0..=2 => 0,
            15 => 120 + self.below(200) as usize,
            _ => self.below(12) as usize,
        }
    }
}

/// A type that draws a value of itself.
pub trait Sample: Sized {
    /// A value that `version` can carry.
    fn sample(source: &mut Source, version: i16) -> Self;
}

/// A value that is null now and then where `nullable`.
pub(crate) fn sample_option<T: Sample + Nullable>(
    nullable: bool,
    source: &mut Source,
    version: i16,
) -> Option<T> {
    if nullable && source.below(4) == 0 { None } else { Some(T::sample(source, version)) }
}

macro_rules! integers {
    ($($kind:ty),*) => {$(
        impl Sample for $kind {
            fn sample(source: &mut Source, _version: i16) -> Self {
                source.integer() as $kind
            }
        }
    )*};
}

integers!(i8, i16, u16, i32, i64, f64);

impl Sample for bool {
    fn sample(source: &mut Source, _version: i16) -> bool {
        source.below(2) == 1
    }
}

impl Sample for ErrorCode {
    fn sample(source: &mut Source, version: i16) -> ErrorCode {
        ErrorCode(i16::sample(source, version))
    }
}

impl Sample for Uuid {
    fn sample(source: &mut Source, _version: i16) -> Uuid {
        let half = |number: u64| u128::from(number);
        Uuid((half(source.next_u64()) << 64 | half(source.next_u64())).to_be_bytes())
    }
}

impl Sample for String {
    fn sample(source: &mut Source, _version: i16) -> String {
        (0..source.length())
            .map(|_| ['a', 'Z', '.', '-', '0', 'é', '漢', '𝄞'][source.below(8) as usize])
            .collect()
    }
}

impl Sample for Bytes {
    fn sample(source: &mut Source, _version: i16) -> Bytes {
        (0..source.length()).map(|_| source.next_u64() as u8).collect()
    }
}

impl Sample for Records {
    fn sample(source: &mut Source, version: i16) -> Records {
        Records((0..source.below(3)).map(|_| Bytes::sample(source, version)).collect())
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(source: &mut Source, version: i16) -> Vec<T> {
        // Nested arrays stay short, or a message would grow with the power of its depth.
        let length = if source.depth == 0 { source.length() } else { source.below(4) as usize };
        source.depth += 1;
        let elements = (0..length).map(|_| T::sample(source, version)).collect();
        source.depth -= 1;
        elements
    }
}
