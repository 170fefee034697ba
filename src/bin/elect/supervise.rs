//! What gaining and losing leadership does: runs a command, calls hooks, tells systemd.
//!
//! ```text
//!  supervisor ────── orders, by a pipe ──────► guard ────── orders, by a pipe ──────► init ── starts ──► COMMAND
//!  (`elect run`: stands,                       (starts before any win;                (its parent, and       (its group, and
//!   renews, leads)  ◄── reports, by a pipe ──   does nothing but this) ◄── reports ──   of what it leaves)     all they start)
//! ```
//!
//! Either of the first two ends COMMAND by itself, in time, when the other can't:
//!
//! * The guard knows until when leadership is proved. Without word of a renewal it sends TERM, then KILL, and
//!   has all dead before that moment. If the pipe ends, the supervisor is dead: it kills at once, and gives the
//!   leadership up in the supervisor's place.
//! * The supervisor knows up to which moment the guard has heard. Without the guard's report it kills the
//!   guard shortly before that; what is left becomes the supervisor's child, which kills that too.
//! * Where neither runs, because both were stopped, the kernel kills the guard at that same moment
//!   ([`deadman`]).
//! * When the guard dies, so does all below it, whatever became of its credentials: by the kernel's hand where [`init`]
//!   has a PID [`namespace`], else by that of [`init`].
//!
//! [`budget`], [`countdown`] (the guard's) and [`oversight`] (the supervisor's) are the rules, and pure. [`guard`]
//! and [`guard_handle`] are the two ends of [`protocol`]; [`init`] and [`init_handle`] are those one step below.
//! [`children`] ends and reaps processes. All but [`systemd`] needs Linux.

#[cfg(target_os = "linux")]
pub(crate) mod budget;
#[cfg(target_os = "linux")]
pub(crate) mod children;
pub(crate) mod contain;
#[cfg(target_os = "linux")]
pub(crate) mod countdown;
#[cfg(target_os = "linux")]
pub(crate) mod deadman;
#[cfg(target_os = "linux")]
pub(crate) mod environment;
#[cfg(target_os = "linux")]
pub(crate) mod guard;
#[cfg(target_os = "linux")]
pub(crate) mod guard_handle;
#[cfg(target_os = "linux")]
pub(crate) mod health;
#[cfg(target_os = "linux")]
pub(crate) mod hooks;
#[cfg(target_os = "linux")]
pub(crate) mod init;
#[cfg(target_os = "linux")]
pub(crate) mod init_handle;
#[cfg(target_os = "linux")]
pub(crate) mod namespace;
#[cfg(target_os = "linux")]
pub(crate) mod oversight;
#[cfg(target_os = "linux")]
pub(crate) mod program;
#[cfg(target_os = "linux")]
pub(crate) mod protocol;
pub(crate) mod restart;
#[cfg(target_os = "linux")]
pub(crate) mod shell;
#[cfg(target_os = "linux")]
pub(crate) mod shim;
pub(crate) mod systemd;
