//! DescribeConfigs.

/// `config_source` of a value that a topic has of its own.
pub(super) const SOURCE_TOPIC: i8 = 1;
/// `config_source` of a default.
pub(super) const SOURCE_DEFAULT: i8 = 5;
