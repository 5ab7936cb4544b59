//! The plugins that are part of the program.

/// A component that was built with the program.
#[derive(Debug)]
pub struct Embedded {
    /// Name of its file without the ending, which is the plugin's.
    pub name: &'static str,
    /// The component.
    pub bytes: &'static [u8],
    /// SHA-256 of the bytes, in hexadecimal.
    pub sha256: &'static str,
}

pub(crate) static EMBEDDED: &[Embedded] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
