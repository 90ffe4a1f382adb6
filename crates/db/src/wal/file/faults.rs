//! Faults that tests plan: a step on a root that fails, or that blocks until it is released.

use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::root::{Root, RootId};

/// What happens at a step.
#[derive(Clone)]
pub(in super::super) enum Fault {
    /// It fails.
    Error(io::ErrorKind),
    /// It blocks until the gate opens, then goes on.
    Block(Gate),
}

/// A gate that blocks every thread that comes to it until it is opened.
#[derive(Clone, Default)]
pub(in super::super) struct Gate {
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    open: bool,
    arrived: usize,
}

impl Gate {
    fn pass(&self) {
        let (state, changed) = &*self.state;
        let mut state = state.lock();
        state.arrived += 1;
        changed.notify_all();
        while !state.open {
            changed.wait(&mut state);
        }
    }

    /// Lets everybody through from now on.
    pub(in super::super) fn open(&self) {
        self.state.0.lock().open = true;
        self.state.1.notify_all();
    }

    /// Whether a thread has come to it.
    pub(in super::super) fn reached(&self) -> bool {
        self.state.0.lock().arrived > 0
    }
}

/// The faults to come.
#[derive(Clone, Default)]
pub(in super::super) struct Planned {
    next: Arc<Mutex<Vec<Plan>>>,
}

struct Plan {
    step: &'static str,
    root: Option<RootId>,
    fault: Fault,
    once: bool,
}

impl Planned {
    /// The next time that `step` is done, on this root or on any.
    pub(in super::super) fn once(&self, step: &'static str, root: Option<RootId>, fault: Fault) {
        self.next.lock().push(Plan {
            step,
            root,
            fault,
            once: true,
        });
    }

    /// Every time from now on.
    pub(in super::super) fn always(&self, step: &'static str, root: Option<RootId>, fault: Fault) {
        self.next.lock().push(Plan {
            step,
            root,
            fault,
            once: false,
        });
    }

    /// Nothing any more.
    pub(in super::super) fn clear(&self) {
        self.next.lock().clear();
    }

    pub(super) fn check(&self, step: &str, root: &Root) -> io::Result<()> {
        let mut next = self.next.lock();
        let wanted = |plan: &Plan| plan.step == step && plan.root.is_none_or(|id| id == root.id());
        let Some(at) = next.iter().position(wanted) else {
            return Ok(());
        };
        let fault = if next[at].once {
            next.remove(at).fault
        } else {
            next[at].fault.clone()
        };
        drop(next);
        match fault {
            Fault::Error(kind) => Err(kind.into()),
            Fault::Block(gate) => {
                gate.pass();
                Ok(())
            }
        }
    }
}
