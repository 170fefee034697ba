//! HTTP responses: a whole text, or events for as long as the client reads them.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{
    Response, StatusCode,
    body::{Body, Bytes, Frame, SizeHint},
    header::{CONTENT_TYPE, HeaderValue},
};
use tokio::sync::mpsc;

pub(crate) type HttpResponse = Response<ResponseBody>;

/// The body of a response.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    Whole(Bytes),
    Events(mpsc::Receiver<Bytes>),
}

/// Creates a response with a whole body.
pub(crate) fn whole(
    status: StatusCode,
    content_type: &'static str,
    content: impl Into<Bytes>,
) -> HttpResponse {
    with_type(status, content_type, ResponseBody::Whole(content.into()))
}

/// Creates a response with a line of text.
pub(crate) fn line(status: StatusCode, text: impl Into<Bytes>) -> HttpResponse {
    whole(status, "text/plain; charset=utf-8", text)
}

/// Creates a response with a stream of events.
pub(crate) fn events(events: mpsc::Receiver<Bytes>) -> HttpResponse {
    with_type(StatusCode::OK, "text/event-stream", ResponseBody::Events(events))
}

fn with_type(status: StatusCode, content_type: &'static str, content: ResponseBody) -> HttpResponse {
    let mut answer = Response::new(content);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Events(events) => {
                events.poll_recv(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
