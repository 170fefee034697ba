//! A codec that decodes no long message of an unknown caller.
//!
//! A member's message may have a mebibyte. If a stranger fills that with a hundred thousand empty fields, decoding
//! takes this thread, which sends the heartbeats too, many milliseconds. So the first frames of a call are measured
//! before they are decoded.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf as _;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Limit for each of the first frames. A Hello of seven members with the longest names and hosts has half of it.
pub(crate) const LONGEST_FIRST_WORD: usize = 8 << 10;

/// A Greeting, an Introduction and a Verdict.
const FIRST_WORDS: u8 = 3;

/// The codec of all calls.
#[derive(Debug)]
pub(crate) struct ShortAtFirst<T, U>(PhantomData<fn(T) -> U>);

impl<T, U> Default for ShortAtFirst<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ShortAtFirst<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Measuring<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Measuring { decoder: ProstDecoder::new(BufferSettings::default()), first: FIRST_WORDS }
    }
}

/// Decodes the frames of one call in one direction.
#[derive(Debug)]
pub(crate) struct Measuring<U> {
    decoder: ProstDecoder<U>,
    /// First messages that are still to come.
    first: u8,
}

impl<U: Message + Default> Decoder for Measuring<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, frame: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if self.first > 0 {
            if frame.remaining() > LONGEST_FIRST_WORD {
                return Err(Status::out_of_range("a first message that is too long"));
            }
            self.first -= 1;
        }
        self.decoder.decode(frame)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.decoder.buffer_settings()
    }
}
