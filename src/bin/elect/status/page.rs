//! `/`: the page for people. One file, nothing external, and a policy that admits nothing else.

use std::sync::LazyLock;

use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::{
    StatusCode,
    header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY},
};
use ring::digest::{SHA256, digest};

use super::response::{self, HttpResponse};

const PAGE: &str = include_str!("page.html");

/// Allows only this script, this style, and `/events` of the same server.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash_of("<script>", "</script>"),
        hash_of("<style>", "</style>"),
    );
    HeaderValue::try_from(policy).expect("a policy is visible ASCII")
});

pub(crate) fn answer() -> HttpResponse {
    let mut answer = response::whole(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

/// Returns the hash that a browser computes of the one element between these two tags.
fn hash_of(open: &str, close: &str) -> String {
    let (_, rest) = PAGE.split_once(open).expect("the page has one such element");
    let (content, _) = rest.split_once(close).expect("the element is closed");
    format!("sha256-{}", BASE64_STANDARD.encode(digest(&SHA256, content.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_one_style_and_nothing_that_the_policy_would_stop() {
        for (tag, count) in [("<script", 1), ("<style", 1), ("<link", 1), ("<img", 0), ("<iframe", 0)] {
            assert_eq!(PAGE.matches(tag).count(), count, "{tag}");
        }
        for forbidden in [" style=", " onclick", " onload", " onerror", "=\"http", "innerHTML", "eval("] {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        assert!(POLICY.to_str().unwrap().matches("'sha256-").count() == 2);
    }
}
