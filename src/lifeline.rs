//! Following a process that died at once, by the word of its kernel.

#[expect(dead_code, reason = "what looks at tickets comes next")]
pub(crate) mod evidence;
