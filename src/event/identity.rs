//! Who an event is from: cleaned ids, `rudderId` (gateway.md 6.2, 6.3).
