//! The files of a log as one sequence: the blocks of all of them in the order of their numbers, each once.
//!
//! Owns the rules between files, whichever roots they lie on; the rules within a file are in `scan` and `block`.
//!
//! - A number that occurs twice (a block that was written again on another root after a stall) counts once.
//! - A hole that a header declares is skipped, and entries in it do not count.
//! - Any other missing number at or below the highest mark was acknowledged: corruption. The first gap above it is the
//!   end; what lies behind was never acknowledged.

use bytes::Bytes;

use crate::error::Result;
use crate::point::{Operation, Seq};

use super::block::Header;
use super::codec::Damage;
use super::log::Hole;
use super::replay::{Found, Replay};
use super::scan::{Blocks, FileEnd, check_object, corruption, entries};

/// One file that is being read.
pub(super) struct Reader {
    pub(super) found: Found,
    pub(super) header: Header,
    bytes: Bytes,
    /// The next block that counts or may count.
    block: Option<Ready>,
    /// Where the block after it begins.
    at: usize,
    /// Sequence number after the last entry that was read.
    pub(super) next_seq: Seq,
    /// Where what counts ends: after the last counted block and the closing block.
    pub(super) end: usize,
    /// Where the closing block begins, if there is one at the end.
    pub(super) closing: Option<usize>,
    /// Why the bytes at the end are no block.
    torn: Option<(usize, String)>,
}

struct Ready {
    start: usize,
    entries: Vec<(Seq, Operation)>,
}

impl Ready {
    fn range(&self) -> (Seq, Seq) {
        let seq = |entry: Option<&(Seq, Operation)>| entry.map_or(0, |(seq, _)| *seq);
        (seq(self.entries.first()), seq(self.entries.last()))
    }
}

impl Reader {
    /// Reads up to the first block; raises `known` to the marks on the way.
    pub(super) fn new(found: Found, bytes: Bytes, known: &mut Seq) -> Result<Self> {
        let shown = found.shown();
        let (header, at) = Header::decode(&bytes).map_err(|damage| corruption(&shown, 0, &damage))?;
        let mut reader = Self {
            next_seq: header.first_seq,
            found,
            header,
            bytes,
            block: None,
            at,
            end: at,
            closing: None,
            torn: None,
        };
        reader.advance(known)?;
        Ok(reader)
    }

    /// Length of the file.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Goes on to the next block with entries.
    fn advance(&mut self, known: &mut Seq) -> Result<()> {
        self.block = None;
        let shown = self.found.shown();
        let mut blocks = Blocks::new(&shown, &self.bytes, &self.header, self.at);
        while let Some(block) = blocks.next()? {
            *known = block.mark.max(*known);
            let start = std::mem::replace(&mut self.at, block.end);
            if block.count == 0 {
                (self.closing, self.end) = (Some(start), block.end);
                continue;
            }
            self.closing = None;
            let entries = entries(&self.header, &block, self.next_seq);
            let entries = entries.map_err(|damage| corruption(&shown, start, &damage))?;
            self.next_seq = entries.last().map_or(self.next_seq, |(seq, _)| seq + 1);
            self.block = Some(Ready { start, entries });
            return Ok(());
        }
        if let Some(FileEnd::Torn { reason }) = blocks.end {
            self.torn = Some((self.at, reason));
        }
        check_object(&self.header, self.next_seq).map_err(|damage| corruption(&shown, self.at, &damage))?;
        Ok(())
    }
}

/// The merge at one point.
pub(super) struct Merge {
    pub(super) readers: Vec<Reader>,
    /// Files that are read to their end.
    pub(super) done: Vec<Reader>,
    holes: Vec<Hole>,
    /// The number that comes next.
    pub(super) expected: Seq,
    /// Last number that counts: replayed or already flushed.
    pub(super) last: Seq,
    /// Highest number that is known as durable.
    pub(super) known: Seq,
}

impl Merge {
    /// Begins after the entries that are flushed.
    pub(super) fn new(after: Seq, headers: &[Header]) -> Self {
        let holes = headers.iter().map(|header| Hole {
            previous: header.previous_seq,
            first: header.first_seq,
        });
        Self {
            readers: Vec::new(),
            done: Vec::new(),
            holes: holes.filter(|hole| hole.previous + 1 < hole.first).collect(),
            expected: after + 1,
            last: after,
            known: headers.iter().map(|header| header.acknowledged).max().unwrap_or(0),
        }
    }

    fn hole_at(&self, seq: Seq) -> Option<Hole> {
        let holds = |hole: &&Hole| hole.previous < seq && seq < hole.first;
        self.holes.iter().find(holds).copied()
    }

    /// Delivers the next block, or passes a hole; false if the next number is in none of the files.
    pub(super) fn step(&mut self, each: &mut Replay<'_>) -> Result<bool> {
        self.skip()?;
        let expected = self.expected;
        let ready = self.readers.iter_mut().find_map(|reader| {
            let first = reader.block.as_ref()?.range().0;
            (first <= expected).then_some(reader)
        });
        let Some(reader) = ready else {
            let Some(hole) = self.hole_at(expected) else {
                return Ok(false);
            };
            self.expected = hole.first;
            return Ok(true);
        };
        if let Some(block) = reader.block.take() {
            (self.last, self.expected) = (block.range().1, block.range().1 + 1);
            for (seq, operation) in block.entries {
                if seq >= expected {
                    each(seq, operation);
                }
            }
        }
        reader.end = reader.at;
        reader.advance(&mut self.known)?;
        Ok(true)
    }

    /// Passes blocks that were delivered or flushed already, or that lie in a hole, and files that are read.
    fn skip(&mut self) -> Result<()> {
        let mut at = 0;
        while let Some(reader) = self.readers.get(at) {
            let Some((first, last)) = reader.block.as_ref().map(Ready::range) else {
                self.done.push(self.readers.swap_remove(at));
                continue;
            };
            if last >= self.expected && self.hole_at(first).is_none() {
                at += 1;
            } else if let Some(reader) = self.readers.get_mut(at) {
                reader.end = reader.at;
                reader.advance(&mut self.known)?;
            }
        }
        Ok(())
    }

    /// When the next number is nowhere: whether it may be missing. Returns the first number that is free.
    pub(super) fn finish(&mut self) -> Result<Seq> {
        let gap = self.expected;
        let beyond = self
            .readers
            .iter()
            .filter_map(|reader| Some((reader.block.as_ref()?.range().0, reader)));
        let beyond = beyond
            .min_by_key(|(first, _)| *first)
            .map(|(first, reader)| (first, reader.found.shown()));
        let mut next = gap;
        for reader in &mut self.readers {
            let end = reader.block.as_ref().map_or(reader.end, |block| block.start);
            while reader.block.is_some() {
                reader.advance(&mut self.known)?;
            }
            (reader.end, reader.closing) = (end, None);
            next = next.max(reader.next_seq);
        }
        self.done.append(&mut self.readers);
        if self.known >= gap {
            return Err(self.missing(gap, beyond));
        }
        // A file that begins behind the gap keeps its name, so the number it begins with is not free either.
        let firsts = self.done.iter().map(|reader| reader.header.first_seq);
        Ok(firsts
            .filter(|first| *first > gap)
            .fold(next, |next, first| next.max(first + 1)))
    }

    /// The error for acknowledged entries from `gap` on that are nowhere: at a bad end of a file before them, or else at
    /// the file that goes on after them.
    fn missing(&self, gap: Seq, beyond: Option<(Seq, String)>) -> crate::error::Error {
        let to = beyond
            .as_ref()
            .map_or(self.known, |(first, _)| self.known.min(first - 1));
        let lost = format!("entries {gap} to {to} are missing, although they were acknowledged");
        let torn = self.done.iter().filter(|reader| reader.header.first_seq <= gap);
        let torn = torn.filter_map(|reader| Some((reader, reader.torn.as_ref()?)));
        if let Some((reader, (at, reason))) = torn.max_by_key(|(reader, _)| reader.next_seq) {
            return corruption(&reader.found.shown(), *at, &Damage(format!("{reason}; {lost}")));
        }
        let later = self.done.iter().filter(|reader| reader.header.first_seq > gap);
        let later = later.min_by_key(|reader| reader.header.first_seq);
        let any = self.done.iter().max_by_key(|reader| reader.header.first_seq);
        match (later.or(any), beyond) {
            (Some(reader), _) => {
                let at = if later.is_some() { 0 } else { reader.end };
                corruption(&reader.found.shown(), at, &Damage(lost))
            }
            (None, _) => corruption("", 0, &Damage(lost)),
        }
    }
}
