//! The last offset of each key, in bounded memory.
//!
//! A key stands for itself by 128 bits of a keyed hash. Whoever does not know the hash's key cannot make two keys of one hash,
//! of which one would take the other's place in a compacted log; that it happens by chance is less likely than a disk that
//! lies.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;

use crate::Offset;

/// What stands for a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KeyHash(u64, u64);

impl KeyHash {
    pub fn new(secret: &[u8; 16], key: &[u8]) -> KeyHash {
        let mut hasher = SipHasher24::new_with_key(secret);
        hasher.write(key);
        let hash = hasher.finish128();
        KeyHash(hash.h1, hash.h2)
    }
}

/// Keys and the largest offset that each was given with.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct KeyMap {
    /// The two halves of each key, and its offset plus one; 0 is a free slot, so that a new map costs nothing until it is used.
    slots: Vec<[u64; 3]>,
    used: usize,
    /// Three quarters of the slots, so that few are looked at and there is always a free one.
    used_max: usize,
}

impl KeyMap {
    /// A map of so many bytes at most, and for no more keys than are wanted; for one at least.
    pub fn new(bytes_max: u64, keys_wanted: u64) -> KeyMap {
        let slots = (bytes_max / size_of::<[u64; 3]>() as u64)
            .min(keys_wanted.saturating_mul(4) / 3 + 2)
            .max(2) as usize;
        KeyMap { slots: vec![[0; 3]; slots], used: 0, used_max: (slots * 3 / 4).max(1) }
    }

    /// The slot of a key, or the free one where it would stand.
    fn slot(&self, key: KeyHash) -> usize {
        let mut at = ((u128::from(key.0) * self.slots.len() as u128) >> 64) as usize;
        while let [first, second, taken] = self.slots[at]
            && taken > 0
            && KeyHash(first, second) != key
        {
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        at
    }

    /// Takes a key with an offset; false where there is no room for another key.
    pub fn insert(&mut self, key: KeyHash, offset: Offset) -> bool {
        let at = self.slot(key);
        let slot = &mut self.slots[at];
        if slot[2] == 0 {
            if self.used == self.used_max {
                return false;
            }
            self.used += 1;
            (slot[0], slot[1]) = (key.0, key.1);
        }
        slot[2] = slot[2].max(offset as u64 + 1);
        true
    }

    /// The largest offset of a key, if it is here.
    pub fn get(&self, key: KeyHash) -> Option<Offset> {
        let [_, _, taken] = self.slots[self.slot(key)];
        (taken > 0).then(|| taken as Offset - 1)
    }
}

impl std::fmt::Debug for KeyMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys of {}", self.used, self.used_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> KeyHash {
        KeyHash::new(&[7; 16], &number.to_le_bytes())
    }

    #[test]
    fn keeps_the_largest_offset_of_as_many_keys_as_it_may() {
        let mut map = KeyMap::new(1 << 20, 1_000);
        for number in 0..1_000 {
            assert!(map.insert(key(number), i64::from(number)));
            assert!(map.insert(key(number / 2), 5_000 - i64::from(number)));
        }
        assert!(map.insert(key(999), 9_000) && map.insert(key(999), 8_000));
        assert_eq!((map.get(key(0)), map.get(key(499))), (Some(5_000), Some(4_002)));
        let found = [998, 999, 1_000].map(|number| map.get(key(number)));
        assert_eq!(found, [Some(998), Some(9_000), None]);
        let mut small = KeyMap::new(24 * 400, 1_000);
        assert_eq!((0..1_000).filter(|number| small.insert(key(*number), 1)).count(), 300);
        assert!(small.insert(key(0), 2), "one that is here needs no room");
        assert_eq!(format!("{map:?}, {small:?}"), "1000 keys of 1001, 300 keys of 300");
        assert!(KeyMap::new(0, 0).insert(key(1), 0), "one key always has room");
    }

    #[test]
    fn hashes_are_keyed() {
        assert_ne!(KeyHash::new(&[7; 16], b"a"), KeyHash::new(&[8; 16], b"a"));
    }
}
