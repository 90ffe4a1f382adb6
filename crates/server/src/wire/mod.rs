//! The JSON that clients send and read, and nothing else: no I/O, no state. Requests ignore unknown fields, as
//! Qdrant does, so that newer clients work; answers that clients also send back carry no field they do not know.

pub mod collection;
pub mod explain;
pub mod fields;
pub mod index;
pub mod json;
pub mod points;
pub mod proximadb;
pub mod query;
pub mod selection;
pub mod storage;
pub mod vectors;
