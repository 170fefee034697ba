//! The secret that only the members of a group know, and the proof of knowing it.
//!
//! A proof is an HMAC-SHA-256 with the secret as its key. It covers the sender, the receiver and the connection:
//! the election, both names, both sides' nonces, one of three points, and the bytes sent there. So a proof that was
//! recorded, sent back to its sender, or made for something else proves nothing.
//!
//! It proves who opened a connection. It does not protect later messages: an attacker that can alter packets can
//! insert its own into a connection that a member has opened. TLS is for that.

use std::{fmt, sync::Arc};

use prost::bytes::Bytes;
use ring::hmac;

/// A group's secret.
#[derive(Clone)]
pub struct Secret(Arc<hmac::Key>);

/// Reason why bytes can't be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a secret has at least {} bytes, and this has {length}", Secret::SHORTEST)]
pub struct InvalidSecret {
    length: usize,
}

impl Secret {
    /// Fewest bytes of a secret. A caller that is refused still sees a proof, and can try secrets on it offline for
    /// any time.
    pub const SHORTEST: usize = 32;

    /// A secret of these bytes.
    ///
    /// # Errors
    ///
    /// Refuses less than [`SHORTEST`](Self::SHORTEST) bytes.
    pub fn new(secret: &[u8]) -> Result<Self, InvalidSecret> {
        if secret.len() < Self::SHORTEST {
            return Err(InvalidSecret { length: secret.len() });
        }
        Ok(Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret))))
    }

    pub(crate) fn prove(&self, proof: &Proof<'_>) -> Bytes {
        let mut context = hmac::Context::with_key(&self.0);
        proof.parts(|part| context.update(part));
        Bytes::copy_from_slice(context.sign().as_ref())
    }

    /// Returns true if that proof was made with this secret. Takes as long for any wrong one.
    pub(crate) fn confirms(&self, proof: &Proof<'_>, made: &[u8]) -> bool {
        let mut all = Vec::new();
        proof.parts(|part| all.extend_from_slice(part));
        hmac::verify(&self.0, &all, made).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The contents of a proof.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proof<'a> {
    pub(crate) point: Point,
    pub(crate) election: &'a str,
    pub(crate) caller: &'a str,
    pub(crate) called: &'a str,
    /// The caller's, and the listener's.
    pub(crate) nonces: [Nonce; 2],
    /// The bytes sent there.
    pub(crate) said: &'a [u8],
}

/// Sixteen random bytes, made for one connection.
pub(crate) type Nonce = [u8; 16];

/// The point of the handshake at which a proof is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The listener greets.
    Greeted,
    /// The caller introduces itself.
    Caller,
    /// The listener introduces itself.
    Called,
    /// An operator sends an order. It is no member: its proof is of no use to become one.
    Operator,
}

impl Proof<'_> {
    /// All parts, so that no two proofs are made over the same bytes.
    fn parts(&self, mut update: impl FnMut(&[u8])) {
        let point: &[u8] = match self.point {
            Point::Greeted => b"the called one greets",
            Point::Caller => b"the caller introduces itself",
            Point::Called => b"the called one introduces itself",
            Point::Operator => b"an operator orders",
        };
        let [caller, called] = &self.nonces;
        let names = [self.election, self.caller, self.called].map(str::as_bytes);
        let all = [b"elect peers".as_slice(), point].into_iter().chain(names);
        for part in all.chain([caller.as_slice(), called, self.said]) {
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
            update(&length.to_be_bytes());
            update(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> Secret {
        Secret::new(&[byte; 32]).unwrap()
    }

    const PROOF: Proof<'_> = Proof {
        point: Point::Caller,
        election: "leader",
        caller: "a",
        called: "b",
        nonces: [[1; 16], [2; 16]],
        said: b"hello",
    };

    #[test]
    fn is_confirmed_by_the_same_secret_only() {
        let made = secret(1).prove(&PROOF);
        assert!(secret(1).confirms(&PROOF, &made));
        assert!(!secret(2).confirms(&PROOF, &made));
        assert!(!secret(1).confirms(&PROOF, &made[1..]) && !secret(1).confirms(&PROOF, b""));
    }

    /// Each part is bound: a proof serves no other purpose.
    #[test]
    fn proves_nothing_else() {
        let made = secret(1).prove(&PROOF);
        for other in [
            Proof { point: Point::Greeted, ..PROOF },
            Proof { point: Point::Called, ..PROOF },
            Proof { point: Point::Operator, ..PROOF },
            Proof { election: "other", ..PROOF },
            Proof { caller: "b", called: "a", ..PROOF },
            Proof { caller: "ab", called: "", ..PROOF },
            Proof { nonces: [[1; 16], [3; 16]], ..PROOF },
            Proof { nonces: [[3; 16], [2; 16]], ..PROOF },
            Proof { nonces: [[2; 16], [1; 16]], ..PROOF },
            Proof { said: b"hello!", ..PROOF },
        ] {
            assert!(!secret(1).confirms(&other, &made), "{other:?}");
        }
    }

    #[test]
    fn is_long_and_never_shown() {
        let refused = Secret::new(&[1; 31]).unwrap_err().to_string();
        assert_eq!(refused, "a secret has at least 32 bytes, and this has 31");
        assert_eq!(format!("{:?}", secret(b'x')), "Secret(…)");
    }
}
