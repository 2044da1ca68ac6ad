//! Who exists in the base policy, and tokens of every kind.

use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use gateway::policy::authenticate::api_key;
use gateway::policy::token::compose_secret;
use gateway::types::Sha256;
use serde_json::{Value, json};

/// The base policy's keys: id and roles.
const KEYS: [(&str, &str); 6] = [
    ("reader", "[\"reader\"]"),
    ("predictor", "[\"predictor\"]"),
    ("second", "[\"predictor\"]"),
    ("admin", "[\"admin\"]"),
    ("nobody", "[]"),
    ("expired", "[\"predictor\"]"),
];

/// The password of `alice`, who has the role `predictor`.
pub const ALICE: &str = "correct horse battery staple";
/// The password of `bob`, who has the role `reader`.
pub const BOB: &str = "wer reitet so spaet";
/// The `iss` of the gateway's own tokens.
pub const ISSUER: &str = "https://localhost:8443";
/// Their `aud`.
pub const AUDIENCE: &str = "modelgate";
/// What signs them with HS256.
pub const SECRET: &str = "b58c1f0a7d9e4463a2c87b1e5f90d3c46e8a1b7295cd40f3";

/// The key with that id: `reader`, `predictor`, `second` (a predictor too), `admin`, `nobody` (without
/// roles) and `expired`. Any other id gives a well-formed key that the policy does not know.
#[must_use]
pub fn key(id: &str) -> String {
    let digest = Sha256::of(id.as_bytes()).to_string();
    let mut secret = [0; 20];
    secret.iter_mut().zip(digest.bytes().rev()).for_each(|(byte, digit)| *byte = digit);
    api_key::compose(id, secret)
}

/// The base policy's keys and users, in TOML. The users' digests cost the least that is legal.
pub(crate) fn toml() -> String {
    let keys = KEYS.iter().map(|(id, roles)| {
        let digest = Sha256::of(key(id).as_bytes());
        let expires = if *id == "expired" { "expires = \"2020-01-01T00:00:00Z\"\n" } else { "" };
        format!("[api_keys.{id}]\ndigest = \"{digest}\"\nowner = \"tests\"\nroles = {roles}\n{expires}")
    });
    let alice = "$argon2id$v=19$m=7168,t=1,p=1$4+wVHGQLC6+n61U46RxAmw$NLqTAJyfqOc9yxRuOqvDv+Js7TG3DcxtYS+LJ4W6P1s";
    let bob = "$argon2id$v=19$m=7168,t=1,p=1$k1j5/j2Kkj1ZRarVhTVjmA$MtHP82r8y0g+MGEBPZYh/ny56ObM3JEaiCiAwTpIsDg";
    let users = format!(
        "[users.alice]\ndigest = \"{alice}\"\nroles = [\"predictor\"]\n[users.bob]\ndigest = \"{bob}\"\nroles = [\"reader\"]\n"
    );
    keys.collect::<String>() + &users
}

/// The secret of a client; see [`clients`].
#[must_use]
pub fn client_secret(name: &str) -> String {
    let digest = Sha256::of(name.as_bytes());
    let mut random = [0; 20];
    random.iter_mut().zip(digest.as_bytes()).for_each(|(byte, digit)| *byte = *digit);
    compose_secret(random)
}

/// Clients, and every endpoint that they may ask, in TOML: `ci` gets tokens by itself with the role `predictor` and the
/// scopes `predict` and `read`, `batch` those of a minute with the role `reader` and none; users log in through `app`;
/// `watch` may revoke and introspect everything, and `other` what it was given.
#[must_use]
pub fn clients() -> String {
    let clients = [
        ("ci", "grants = [\"client_credentials\"]\nroles = [\"predictor\"]\nscopes = [\"predict\", \"read\"]"),
        ("batch", "grants = [\"client_credentials\"]\nroles = [\"reader\"]\nlifetime = \"60s\""),
        ("app", "grants = [\"password\", \"refresh_token\"]\nscopes = [\"predict\", \"read\"]"),
        ("other", "grants = [\"password\", \"refresh_token\", \"client_credentials\"]"),
        ("watch", "all_tokens = true"),
    ];
    let clients = clients.iter().map(|(name, rest)| {
        let digest = Sha256::of(client_secret(name).as_bytes());
        format!("[clients.{name}]\ndigest = \"{digest}\"\n{rest}\n")
    });
    let endpoints = [
        ("revoke", "/revoke", "POST"),
        ("introspect", "/introspect", "POST"),
        ("jwks", "/.well-known/jwks.json", "GET"),
        ("metadata", "/.well-known/oauth-authorization-server", "GET"),
    ];
    let endpoints = endpoints.iter().map(|(name, path, method)| {
        format!(
            "[routes.{name}]\npath = \"{path}\"\nmethods = [\"{method}\"]\nbuiltin = \"{name}\"\n\
             authenticate = \"anonymous\"\nauthorize = \"anonymous\"\ncors = \"browser\"\n"
        )
    });
    clients.chain(endpoints).collect()
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Octets in base64url without padding.
#[must_use]
pub fn base64url(octets: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(octets)
}

/// The JSON in one part of a token.
#[must_use]
pub fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).expect("a token has three parts");
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
}

/// The claims of a good token of the gateway's own, for `alice`.
#[must_use]
pub fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "alice", "jti": "a-test",
        "iat": now(), "exp": now() + 300, "roles": ["predictor"],
    })
}

/// Signs tokens.
#[derive(Debug)]
pub enum Signer {
    /// With HS256 and a secret.
    Hs256(Vec<u8>),
    /// With ES256.
    Es256(EcdsaKeyPair),
    /// With RS256.
    Rs256(RsaKeyPair),
    /// With EdDSA.
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    /// With this secret.
    #[must_use]
    pub fn hs256(secret: impl Into<Vec<u8>>) -> Self {
        Self::Hs256(secret.into())
    }

    /// With a new key.
    #[must_use]
    pub fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key can be made"))
    }

    /// With a new key of 2048 bits.
    #[must_use]
    pub fn rs256() -> Self {
        Self::Rs256(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key can be made"))
    }

    /// With a new key on edwards25519.
    #[must_use]
    pub fn eddsa() -> Self {
        Self::EdDsa(Ed25519KeyPair::generate().expect("a key can be made"))
    }

    /// The `alg` of its tokens.
    #[must_use]
    pub fn alg(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    /// The private key in PEM (PKCS #8), or the secret.
    #[must_use]
    pub fn private(&self) -> String {
        let der = match self {
            Self::Hs256(secret) => return String::from_utf8_lossy(secret).into_owned(),
            Self::Es256(key) => key.to_pkcs8v1().expect("a key has a form").as_ref().to_vec(),
            Self::Rs256(key) => AsDer::<Pkcs8V1Der<'_>>::as_der(key).expect("a key has a form").as_ref().to_vec(),
            Self::EdDsa(key) => key.to_pkcs8v1().expect("a key has a form").as_ref().to_vec(),
        };
        pem("PRIVATE KEY", &der)
    }

    /// The public key in PEM.
    #[must_use]
    pub fn public(&self) -> String {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Hs256(_) => panic!("a secret has no public part"),
            Self::Es256(key) => AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).expect("a key has a form"),
            Self::Rs256(key) => AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).expect("a key has a form"),
            Self::EdDsa(key) => AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).expect("a key has a form"),
        };
        pem("PUBLIC KEY", der.as_ref())
    }

    /// The public key as a JWK (RFC 7517) with that `kid`; for ES256 alone.
    #[must_use]
    pub fn jwk(&self, kid: &str) -> Value {
        let Self::Es256(key) = self else { panic!("only keys for ES256 are published here") };
        // An uncompressed point: 4, x, y.
        let point = key.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256", "x": base64url(x), "y": base64url(y) })
    }

    /// The signature of some octets, as JWS has it (RFC 7518 §3).
    #[must_use]
    pub fn signature(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Hs256(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed).as_ref().to_vec(),
            Self::Es256(key) => key.sign(&random, signed).expect("a key signs").as_ref().to_vec(),
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, signed, &mut signature).expect("a key signs");
                signature
            }
            Self::EdDsa(key) => key.sign(signed).as_ref().to_vec(),
        }
    }

    /// Whether this key made the signature of a token; for ES256 alone.
    #[must_use]
    pub fn made(&self, token: &str) -> bool {
        let Self::Es256(key) = self else { panic!("only signatures with ES256 are verified here") };
        let (signed, signature) = token.rsplit_once('.').expect("a token has three parts");
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref());
        public.verify(signed.as_bytes(), &signature).is_ok()
    }

    /// A token of a header and claims that are written as they stand here.
    #[must_use]
    pub fn token_of(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", base64url(header), base64url(claims));
        let signature = base64url(self.signature(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// A token with changes to the header of a good one; `null` takes a member away.
    #[must_use]
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let mut good = json!({ "typ": "at+jwt", "alg": self.alg() });
        change(&mut good, header);
        self.token_of(&good.to_string(), &claims.to_string())
    }

    /// A token with changes to the [`claims`] of a good one; `null` takes a claim away.
    #[must_use]
    pub fn token(&self, changes: &Value) -> String {
        let mut good = claims();
        change(&mut good, changes);
        self.token_with(&json!({}), &good)
    }
}

/// Lays the members of one object over another; `null` takes a member away.
pub fn change(object: &mut Value, changes: &Value) {
    let (Some(object), Some(changes)) = (object.as_object_mut(), changes.as_object()) else { return };
    for (name, value) in changes {
        if value.is_null() {
            object.remove(name);
        } else {
            object.insert(name.clone(), value.clone());
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let body = lines.map(|line| line.into_owned() + "\n").collect::<String>();
    format!("-----BEGIN {label}-----\n{body}-----END {label}-----\n")
}
