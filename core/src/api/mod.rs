//! Answers that need nothing but the image: pure functions from a Kafka request to its response.
//!
//! What an image does not show yet is answered with a retriable error or as unknown, as any broker does that is behind.

pub mod admin;
pub mod configs;
