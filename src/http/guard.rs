//! Who may read the pages: everybody on loopback, and elsewhere whoever shows the token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::problem::Problem;

/// Tokens that can be guessed are refused.
const SHORTEST: usize = 16;
/// What orchestrators ask for without any secret; it tells nothing about anybody.
const OPEN: [&str; 2] = ["/livez", "/readyz"];

/// A token that could be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token has fewer than {SHORTEST} characters; `openssl rand -hex 32` makes a good one")]
pub struct TokenTooShort;

/// Knows the token by its hash only: comparing hashes takes the same time whatever was shown, and nothing can print it.
#[derive(Clone)]
pub struct Guard(Arc<Option<blake3::Hash>>);

impl Guard {
    /// Lets everybody in.
    pub fn open() -> Guard {
        Guard(Arc::new(None))
    }

    /// Lets those in who show the token; blanks around it do not count.
    ///
    /// # Errors
    /// [`TokenTooShort`] below 16 characters.
    pub fn with_token(token: &str) -> Result<Guard, TokenTooShort> {
        let token = token.trim();
        if token.len() < SHORTEST { Err(TokenTooShort) } else { Ok(Guard(Arc::new(Some(blake3::hash(token.as_bytes()))))) }
    }

    fn lets_in(&self, path: &str, shown: Option<&HeaderValue>) -> bool {
        let Some(wanted) = *self.0 else { return true };
        // `==` of two hashes is in constant time.
        OPEN.contains(&path) || shown.and_then(token).is_some_and(|token| blake3::hash(&token) == wanted)
    }
}

/// The token of `Bearer TOKEN`, or the password of `Basic …`, which browsers can ask for.
fn token(shown: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, rest) = shown.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().as_bytes().to_vec());
    }
    let pair = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(rest.trim()).ok())??;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// Answers 401 to whoever does not show the token.
pub(super) async fn ask_for_token(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    if guard.lets_in(request.uri().path(), request.headers().get(header::AUTHORIZATION)) {
        return next.run(request).await;
    }
    let detail = "show the token of http.token_file: `Authorization: Bearer TOKEN`, or as the password in a browser";
    let mut refusal = Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
    // Two challenges in one header (RFC 9110 §11.6.1).
    let challenge = HeaderValue::from_static("Bearer realm=\"nepenthe\", Basic realm=\"nepenthe\"");
    refusal.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn the_token_opens_and_nothing_else() {
        let guard = Guard::with_token(&format!("  {TOKEN}\n")).unwrap();
        let lets = |path: &str, shown: Option<&str>| guard.lets_in(path, shown.map(|text| HeaderValue::from_str(text).unwrap()).as_ref());
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for shown in [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN} "), basic(&format!("me:{TOKEN}")), basic(&format!(":{TOKEN}"))] {
            assert!(lets("/v1/status", Some(&shown)), "{shown}");
        }
        let wrong = [TOKEN.to_owned(), "Bearer".to_owned(), format!("Bearer {TOKEN}0"), "Bearer 0123456789abcdeF".to_owned(), basic(TOKEN)];
        for shown in wrong.into_iter().chain([basic(&format!("{TOKEN}:")), "Basic !".to_owned(), format!("Digest {TOKEN}")]) {
            assert!(!lets("/metrics", Some(&shown)), "{shown}");
        }
        assert!(!lets("/", None) && !lets("/livez/x", None) && lets("/livez", None) && lets("/readyz", None));
        assert!(Guard::open().lets_in("/v1/status", None));
    }

    #[test]
    fn fuzz_authorizations() {
        let guard = Guard::with_token(TOKEN).unwrap();
        let shown = [format!("Bearer {TOKEN}"), format!("Basic {}", STANDARD.encode(format!("me:{TOKEN}"))), "Basic Og==".to_owned()];
        crate::fuzz::fuzz("authorizations", &shown, |bytes| {
            let Ok(header) = HeaderValue::from_bytes(bytes) else { return };
            if guard.lets_in("/metrics", Some(&header)) {
                let text = header.to_str().unwrap();
                let plain = text.split_once(' ').unwrap().1.trim();
                let basic = STANDARD.decode(plain).is_ok_and(|pair| pair.ends_with(format!(":{TOKEN}").as_bytes()));
                assert!(plain == TOKEN || basic, "{text}");
            }
        });
    }

    #[test]
    fn a_token_that_could_be_guessed_is_refused() {
        for text in ["", "\n", "short", "              15"] {
            assert_eq!(Guard::with_token(text).err(), Some(TokenTooShort), "{text:?}");
        }
    }
}
