//! Tests of the two formats (F2), through `Wal`.

use super::*;
