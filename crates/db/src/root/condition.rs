//! How a root is: its state, why and since when, and its last failure. The rules by which failures and probes change it.

use proximadb_store::StoreError;
use serde::Serialize;

use super::identity::now_ms;

/// Good probes in a row that make a doubtful root online again: one can be luck.
const GOOD_PROBES: u32 = 2;

/// Whether a root can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum RootState {
    /// Reads and writes.
    Online,
    /// Failed lately: still used, no new collections.
    Suspect,
    /// Full or read-only: reads; writes are tried; no new collections.
    ReadOnly,
    /// Being emptied by request: no new collections.
    Draining,
    /// Not used: its collections are unavailable and are not placed again.
    Offline {
        /// Why, in one sentence.
        reason: String,
    },
}

impl RootState {
    /// Name as in answers: online, suspect, read-only, draining, offline.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::ReadOnly => "read-only",
            Self::Draining => "draining",
            Self::Offline { .. } => "offline",
        }
    }
}

/// A failure of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// What failed and why.
    pub message: String,
    /// When, ms since 1970 UTC.
    pub at_ms: u64,
}

/// Health and drain of a root: two things, as a root that is emptied may fail too.
#[derive(Debug)]
pub(super) struct Condition {
    /// Never `Draining`.
    health: RootState,
    draining: bool,
    /// Why the health is not `Online`; `Offline` carries its own.
    reason: Option<String>,
    since_ms: u64,
    good_probes: u32,
    last_error: Option<LastError>,
}

impl Condition {
    pub(super) fn new(state: RootState) -> Self {
        Self {
            draining: state == RootState::Draining,
            health: if state == RootState::Draining {
                RootState::Online
            } else {
                state
            },
            reason: None,
            since_ms: now_ms(),
            good_probes: 0,
            last_error: None,
        }
    }

    /// What is shown: a drain hides doubts, an outage hides the drain.
    pub(super) fn state(&self) -> RootState {
        match &self.health {
            offline @ RootState::Offline { .. } => offline.clone(),
            _ if self.draining => RootState::Draining,
            health => health.clone(),
        }
    }

    pub(super) fn health(&self) -> &RootState {
        &self.health
    }

    pub(super) fn is_offline(&self) -> bool {
        matches!(self.health, RootState::Offline { .. })
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    pub(super) fn since_ms(&self) -> u64 {
        self.since_ms
    }

    pub(super) fn last_error(&self) -> Option<LastError> {
        self.last_error.clone()
    }

    /// Why it is not simply online.
    pub(super) fn reason(&self) -> Option<String> {
        let health = match &self.health {
            RootState::Offline { reason } => Some(reason.clone()),
            _ => self.reason.clone(),
        };
        match (self.draining, health) {
            (false, health) => health,
            (true, None) => Some("it is being emptied by request".to_owned()),
            (true, Some(health)) => Some(format!("it is being emptied by request; {health}")),
        }
    }

    pub(super) fn set_draining(&mut self, draining: bool) {
        if self.draining != draining {
            self.draining = draining;
            self.since_ms = now_ms();
        }
    }

    /// Sets the state; `Draining` leaves the health alone.
    pub(super) fn set(&mut self, state: RootState, reason: Option<String>) {
        if state == RootState::Draining {
            return self.set_draining(true);
        }
        if self.health.name() != state.name() {
            self.since_ms = now_ms();
        }
        self.good_probes = 0;
        self.health = state;
        self.reason = reason;
    }

    /// Takes note of a failure. An outage outlasts a single one, only a probe ends it.
    pub(super) fn fail(&mut self, worse: RootState, message: String) {
        self.last_error = Some(LastError {
            message: message.clone(),
            at_ms: now_ms(),
        });
        if !self.is_offline() {
            self.set(worse, Some(message));
        }
    }

    /// Takes note of a probe that found everything in order.
    pub(super) fn probed(&mut self) {
        let good_probes = self.good_probes + 1;
        if good_probes >= GOOD_PROBES {
            return self.set(RootState::Online, None);
        }
        let reason = match self.reason() {
            Some(before) if !self.draining => format!("it answers again, after: {before}"),
            _ => "it answers again".to_owned(),
        };
        self.set(RootState::Suspect, Some(reason));
        self.good_probes = good_probes;
    }
}

/// What a failed operation says about its root; `None` if nothing.
pub(super) fn verdict(error: &StoreError) -> Option<RootState> {
    match error {
        StoreError::Full(_) | StoreError::ReadOnly(_) => Some(RootState::ReadOnly),
        StoreError::NotFound(_) | StoreError::Config(_) => None,
        _ => Some(RootState::Suspect),
    }
}
