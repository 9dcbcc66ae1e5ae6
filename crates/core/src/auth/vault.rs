//! Seals secrets with AES-256-GCM under a per-tenant data key that a master key wraps.
//!
//! Format of a sealed blob, version 1: `0x01 | data key id (u64, big endian) | nonce (12) | ciphertext and tag`.
//! Format of a wrapped data key, version 1: `0x01 | nonce (12) | ciphertext and tag`.
//! Associated data is the length-prefixed list of what the blob belongs to, so a row cannot be moved or swapped.
