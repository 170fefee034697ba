//! What `--contain` asks for.

/// What `--contain` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contain {
    /// By its parent alone.
    None,
    /// In a PID namespace of its own, by the kernel.
    Pid,
}
