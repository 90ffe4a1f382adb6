//! Tests of several lanes written side by side (C6, F11), through `Wal`.

use super::*;
