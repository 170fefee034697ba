//! The values of `--contain`.

/// The means that keep a command's processes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Contain {
    /// Only their parent.
    None,
    /// A PID namespace of their own, through the kernel.
    Pid,
}
