//! JSON at the speed of one scan: validation, slices, normalising, lenient decoding (gateway.md 6.1, processor.md 19.1).
