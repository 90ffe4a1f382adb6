//! Answers to the kernel.

use std::time::Duration;

use fuser::{Errno, FileAttr, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyOpen};

/// How long the kernel may believe an answer: not at all.
pub const TTL: Duration = Duration::ZERO;
/// Inode numbers are not used twice while the kernel knows them.
pub const FIRST: Generation = Generation(0);

/// Sends the outcome.
pub fn entry(outcome: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match outcome {
        Ok(attributes) => reply.entry(&TTL, &attributes, FIRST),
        Err(error) => reply.error(error),
    }
}

/// Sends the outcome.
pub fn attributes(outcome: Result<FileAttr, Errno>, reply: ReplyAttr) {
    match outcome {
        Ok(attributes) => reply.attr(&TTL, &attributes),
        Err(error) => reply.error(error),
    }
}

/// Sends the outcome.
pub fn opened(outcome: Result<FileHandle, Errno>, flags: FopenFlags, reply: ReplyOpen) {
    match outcome {
        Ok(handle) => reply.opened(handle, flags),
        Err(error) => reply.error(error),
    }
}

/// Sends the outcome.
pub fn empty(outcome: Result<(), Errno>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}
