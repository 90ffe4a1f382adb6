//! Tests of roots that fail or hang, through `Wal` over several roots.

use super::*;
