//! Who may change things through the admin listener, or see what callers did: whoever reaches its socket, which is
//! for its own user and root, or shows its secret.
//!
//! Never asks who connects over TCP: every user and every program of the machine may, and so may a page or a service
//! that can be made to ask (CSRF, SSRF).

use std::path::PathBuf;

use http::{HeaderMap, StatusCode, header};

use crate::settings::Section;
use crate::types::Sha256;

/// Fewer octets than this could be guessed.
const LEAST_SECRET: usize = 32;

/// Where the socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketPlace {
    /// Where commands look for it by themselves.
    Usual,
    /// Here.
    At(PathBuf),
    /// There is none.
    Off,
}

/// What opens the listener.
#[derive(Clone, Debug)]
pub(super) struct Access {
    secret: Option<Sha256>,
    is_open: bool,
    /// Where the socket is, to tell those who ask over TCP.
    pub(super) socket: Option<PathBuf>,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Over TCP: anybody.
    Tcp,
    /// Over the socket: its user, or root.
    Socket,
}

impl SocketPlace {
    /// Reads `[admin] socket`.
    pub(super) fn compile(section: &Section<'_>) -> Self {
        match section.optional::<String>("socket") {
            None => Self::Usual,
            Some(word) if word == "auto" => Self::Usual,
            Some(word) if word == "off" => Self::Off,
            Some(path) if path.contains('/') => Self::At(path.into()),
            Some(word) => {
                let reason = format!("is {word:?}, which is no path");
                let remedy = "write a path such as \"/run/modelgate/admin.sock\", \"auto\" or \"off\"";
                section.mistake("socket", reason, remedy);
                Self::Off
            }
        }
    }
}

impl Access {
    /// Reads the secret.
    pub(super) fn compile(section: &Section<'_>) -> Self {
        let secret = section.has("secret").then(|| section.secret("secret")).flatten();
        let short = secret.as_ref().is_some_and(|secret| secret.expose().len() < LEAST_SECRET);
        if short {
            let reason = format!("is shorter than {LEAST_SECRET} octets, and could be guessed");
            section.mistake("secret", reason, "make one with `openssl rand -hex 32`");
        }
        Self {
            secret: secret.map(|secret| Sha256::of(secret.expose())),
            is_open: section.or("danger_no_credential", false),
            socket: None,
        }
    }

    /// The same, where this is its socket.
    pub(super) fn at(&self, socket: Option<PathBuf>) -> Self {
        Self { socket, ..self.clone() }
    }

    /// Whether a request may change things and see callers' data; else the answer's status, and why.
    pub(super) fn decide(&self, way: Way, headers: &HeaderMap, by_address: bool) -> Result<(), (StatusCode, String)> {
        if way == Way::Socket {
            return Ok(());
        }
        let mut shown = headers.get_all(header::AUTHORIZATION).into_iter();
        let shown = match (shown.next(), shown.next()) {
            (Some(one), None) => bearer(one.as_bytes()),
            _ => None,
        };
        // Its digest, so that neither its length nor where it differs is told by time.
        if let (Some(secret), Some(shown)) = (&self.secret, shown)
            && secret.matches(&Sha256::of(shown))
        {
            return Ok(());
        }
        if self.is_open {
            return if by_address { Ok(()) } else { Err((StatusCode::FORBIDDEN, NOT_BY_NAME.into())) };
        }
        let socket = self.socket.as_ref().map(|path| format!("its socket {}", path.display()));
        if self.secret.is_some() {
            let or = socket.map(|socket| format!(", or ask through {socket}")).unwrap_or_default();
            return Err((
                StatusCode::UNAUTHORIZED,
                format!("show the secret of [admin] as `Authorization: Bearer …`{or}"),
            ));
        }
        Err((
            StatusCode::FORBIDDEN,
            match socket {
                Some(socket) => format!(
                    "over TCP this listener only tells how the gateway is; ask through {socket}, as the gateway's user \
                     or root, or set a secret under [admin]"
                ),
                None => "over TCP this listener only tells how the gateway is, and it has no socket; set `socket` or \
                         `secret` under [admin]"
                    .into(),
            },
        ))
    }
}

/// What a request is told that names the listener as a page in a browser would.
pub(super) const NOT_BY_NAME: &str = "ask by an address or localhost, not by another name";

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(rest)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{Access, Way};
    use crate::types::Sha256;

    fn with(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_socket_a_secret_or_a_danger_opens_it_and_nothing_else() {
        let closed = Access { secret: None, is_open: false, socket: None };
        let secret = Access { secret: Some(Sha256::of(b"right")), ..closed.clone() };
        let open = Access { is_open: true, ..closed.clone() };
        for (access, way, headers, by_address, status) in [
            (&closed, Way::Tcp, HeaderMap::new(), true, 403),
            (&closed, Way::Tcp, with("Bearer "), true, 403),
            (&closed, Way::Socket, HeaderMap::new(), false, 200),
            (&secret, Way::Tcp, HeaderMap::new(), true, 401),
            (&secret, Way::Tcp, with("Bearer wrong"), true, 401),
            (&secret, Way::Tcp, with("Bearer  right"), true, 401),
            (&secret, Way::Tcp, with("Basic right"), true, 401),
            (&secret, Way::Tcp, with("bearer right"), false, 200),
            (&secret, Way::Socket, HeaderMap::new(), false, 200),
            (&open, Way::Tcp, HeaderMap::new(), true, 200),
            (&open, Way::Tcp, HeaderMap::new(), false, 403),
        ] {
            let decided = access.decide(way, &headers, by_address).map_or_else(|(status, _)| status.as_u16(), |()| 200);
            assert_eq!(decided, status, "{access:?} {way:?} {headers:?}");
        }
        let mut twice = with("Bearer right");
        twice.append(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer right"));
        assert!(secret.decide(Way::Tcp, &twice, true).is_err());
    }
}
