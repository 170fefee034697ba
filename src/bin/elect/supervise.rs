//! Actions of gaining and losing leadership: a command, hooks, systemd.
//!
//! ```text
//!  supervisor ────── orders, by a pipe ──────► guard ────── orders, by a pipe ──────► init ── starts ──► COMMAND
//!  (`elect run`: campaigns,                    (starts before any win;                (its parent, and       (its group, and
//!   renews, leads)  ◄── reports, by a pipe ──   does nothing but this) ◄── reports ──   of what it leaves)     all they start)
//! ```
//!
//! Either of the first two ends COMMAND by itself, in time, when the other can't:
//!
//! * The guard knows until when leadership is proved. Without a report of a renewal it sends TERM, then KILL,
//!   and has all dead before that moment. If the pipe ends, the supervisor is dead: the guard kills at once,
//!   and releases the leadership in its place.
//! * The supervisor knows which deadline the guard has confirmed. Without the guard's report it kills the
//!   guard shortly before that; the remaining processes become the supervisor's children, and it kills those
//!   too.
//! * If neither runs, because both were stopped, the kernel kills the guard at that same moment
//!   ([`deadman`]).
//! * When the guard dies, so do all processes below it, whatever their credentials: the kernel kills them if
//!   [`init`] has a PID [`namespace`], else [`init`] does.
//!
//! [`budget`], [`countdown`] (the guard's) and [`oversight`] (the supervisor's) are the rules, and pure.
//! [`guard`] and [`guard_handle`] are the two ends of [`protocol`]; [`init`] and [`init_handle`] are those
//! one step below. [`children`] ends and reaps processes. All but [`systemd`] needs Linux.

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
pub(crate) mod leader_address;
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
