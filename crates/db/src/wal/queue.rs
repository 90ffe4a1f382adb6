//! What waits to be written: operations numbered and encoded into batches, one batch a future block.
//!
//! Owns sequence numbers and the rule which operations share a block. No I/O, no waiting; the lock around it is
//! `writer`'s.

use std::collections::VecDeque;
use std::ops::Range;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::point::{Operation, Seq};

use super::block::FrameBuffer;
use super::codec::{Damage, LogCodec, PayloadTexts};
use super::flight::LANE_BYTES;
use super::pace::Pace;

/// Blocks in flight at once: one is written, one is applied, one gathers.
const SPARE_BLOCKS: usize = 3;

/// Everything that is not yet written.
pub(super) struct Queue {
    /// Number of the next operation.
    pub(super) next: Seq,
    /// Oldest first; the last one still gathers.
    batches: VecDeque<Batch>,
    /// Whether a lane rests, so that somebody has to look whether it should write.
    pub(super) watched: bool,
    codec: &'static dyn LogCodec,
    /// A block holds operations of several calls up to this size. Bytes.
    max_batch_bytes: usize,
    /// Lanes that write blocks side by side.
    pub(super) lanes: usize,
    /// Set when nothing more is accepted.
    pub(super) closed: Option<Error>,
    /// Memory of blocks that were written, kept while the log is busy.
    spare: Vec<Vec<u8>>,
    /// When the next block may leave for a bucket.
    pub(super) pace: Pace,
}

/// What one block will hold, and who waits for it.
pub(super) struct Batch {
    pub(super) entries: FrameBuffer,
    pub(super) operations: Vec<(Seq, Operation)>,
    pub(super) waiters: Vec<Waiter>,
}

/// A caller of `append`.
pub(super) struct Waiter {
    pub(super) done: oneshot::Sender<Result<()>>,
    /// Room in the queue, given back with the answer.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

impl Queue {
    /// An empty queue whose first operation gets the number `next`.
    pub(super) fn new(next: Seq, max_batch_bytes: usize, lanes: usize, codec: &'static dyn LogCodec) -> Self {
        Self {
            next,
            batches: VecDeque::new(),
            watched: true,
            codec,
            max_batch_bytes,
            lanes,
            closed: None,
            spare: Vec::new(),
            pace: Pace::default(),
        }
    }

    /// Numbers the operations of one call, which take at most `bound` bytes, and adds them to one batch. `unanswered` are
    /// the bytes of all calls that wait for their answer, this one among them.
    pub(super) fn push(
        &mut self,
        operations: Vec<Operation>,
        payloads: &PayloadTexts,
        (bound, unanswered): (usize, usize),
        waiter: Waiter,
    ) -> Result<Range<Seq>, Damage> {
        let numbers = self.next..self.next + operations.len() as u64;
        let mut batch = self.take_gathering(bound, self.batch_bytes(unanswered));
        let (before, is_new) = (batch.entries.entries_mut().len(), batch.operations.is_empty());
        for ((seq, operation), payload) in numbers.clone().zip(&operations).zip(payloads.iter()) {
            let is_first = is_new && seq == numbers.start;
            let entry = self
                .codec
                .put_entry(batch.entries.entries_mut(), is_first, seq, operation, payload);
            if let Err(damage) = entry {
                batch.entries.entries_mut().truncate(before);
                if !is_new {
                    self.batches.push_back(batch);
                }
                return Err(damage);
            }
        }
        self.next = numbers.end;
        self.pace.arrived();
        batch.operations.extend(numbers.clone().zip(operations));
        batch.waiters.push(waiter);
        self.batches.push_back(batch);
        Ok(numbers)
    }

    /// Bytes of a block that holds several calls. What is under way is shared out among the lanes: if one of them took it
    /// all the others would rest, because what they write is acknowledged after it.
    fn batch_bytes(&self, unanswered: usize) -> usize {
        let share = unanswered / self.lanes.max(1);
        share.max(LANE_BYTES).min(self.max_batch_bytes)
    }

    /// Takes out the last batch if with `bytes` more it is not above the limit, or a new one.
    fn take_gathering(&mut self, bytes: usize, limit: usize) -> Batch {
        let fits = |batch: &mut Batch| batch.entries.raw_len() + bytes <= limit;
        self.batches.pop_back_if(fits).unwrap_or_else(|| {
            let entries = FrameBuffer::reusing(self.spare.pop().unwrap_or_default());
            Batch {
                entries,
                operations: Vec::new(),
                waiters: Vec::new(),
            }
        })
    }

    /// Number of the operation that will be written next.
    pub(super) fn first_queued(&self) -> Seq {
        let queued = self.batches.iter().flat_map(|batch| batch.operations.first());
        queued.map(|(seq, _)| *seq).next().unwrap_or(self.next)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Batches of at least `bytes`.
    pub(super) fn batches_of(&self, bytes: usize) -> usize {
        let large = |batch: &&Batch| batch.entries.raw_len() >= bytes;
        self.batches.iter().filter(large).count()
    }

    /// When the oldest batch may leave for a bucket, where one of `full_bytes` waits for nobody; `None` without one.
    pub(super) fn due(&self, now: Instant, full_bytes: usize) -> Option<Instant> {
        let oldest = self.batches.front()?;
        let is_full = oldest.entries.raw_len() >= full_bytes || self.batches.len() > 1;
        let due = self.pace.due(now, is_full);
        Some(if self.closed.is_some() { now } else { due })
    }

    /// The oldest batch.
    pub(super) fn take(&mut self) -> Option<Batch> {
        self.batches.pop_front()
    }

    /// Frees the memory that was kept for further blocks.
    pub(super) fn forget_memory(&mut self) {
        self.spare = Vec::new();
    }

    /// Keeps the memory of a block for the next one, unless one huge call has grown it.
    pub(super) fn keep(&mut self, memory: Vec<u8>) {
        if self.spare.len() < SPARE_BLOCKS && memory.capacity() <= 2 * self.max_batch_bytes {
            self.spare.push(memory);
        }
    }

    /// Gives up everything that is not written; the waiters get their answer from the caller.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = Waiter> + use<> {
        std::mem::take(&mut self.batches)
            .into_iter()
            .flat_map(|batch| batch.waiters)
    }
}
