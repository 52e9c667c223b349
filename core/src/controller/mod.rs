//! The controller: pure functions from the image and a request to metadata records.
pub mod message;
