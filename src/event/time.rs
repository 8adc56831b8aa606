//! Time fields: lenient parsing, one output format (processor.md 3.3).
