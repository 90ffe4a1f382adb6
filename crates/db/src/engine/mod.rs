//! The engine keeps a shard's flushed rows in immutable segments, listed by numbered manifests.
//!
//! | Module | Owns |
//! | --- | --- |
//! | [`absent`] | what has to be read before rows can be looked at |
//! | [`segment`] | rows in memory: [`SegmentData`](segment::SegmentData), its builder, splitting |
//! | [`cluster`] | the order of the rows: similar ones side by side |
//! | [`page_checksum`] | checksums of Parquet pages |
//! | [`footer`] | what a segment says about itself |
//! | [`typed`] | columns of indexed payload fields |
//! | [`parquet`] | a segment as the bytes of a Parquet file, and back |
//! | [`manifest`] | the list of segments of a shard: numbered, checksummed, one writer wins |
//! | [`compaction`] | which segments to merge, and what the merged one holds |
//! | [`viper`] | the files: writing, reading, rebuilding the manifest from footers |
//! | [`lsm`] | the other engine: rows in a log-structured merge tree instead of segment files |
//!
//! Everything but `manifest`, `viper` and `lsm` is functions from values to values. Not here: which row of an id is the live
//! one (the shard derives it from sequence numbers), the log, and the indexes over segments.

// In the order of their dependence, which rustfmt keeps only across blank lines: each uses those above it.
pub mod absent;
pub mod segment;

pub mod cluster;
pub mod footer;
pub mod page_checksum;
pub mod typed;

pub mod manifest;
pub mod parquet;

pub mod compaction;
pub mod viper;

pub mod lsm;

#[cfg(test)]
pub(crate) mod samples;
