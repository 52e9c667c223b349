//! The production driver.

pub mod files;
pub mod runtime;
