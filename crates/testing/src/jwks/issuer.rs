//! Keys of an issuer, and tokens by hand: header, claims and signature are what the test says, right or not.

use std::{collections::BTreeMap, fs, sync::OnceLock};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
        KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding,
        RsaKeyPair,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificates::openssl;

/// The keys that are usually in the set: one for each algorithm.
pub const KIDS: [&str; 4] = ["rsa", "p256", "p384", "ed25519"];
/// The key, for ES256, of somebody who is not the issuer.
pub const STRANGER: &str = "stranger";

/// A private key.
enum SigningKey {
    /// 2048 bits.
    Rsa(RsaKeyPair),
    /// 1024 bits, as PEM: only openssl still signs with it. Its public half beside it.
    Weak(String, Vec<u8>),
    /// On a curve of this name.
    Ecdsa(&'static str, EcdsaKeyPair),
    /// On edwards25519.
    Ed25519(Ed25519KeyPair),
}

/// An issuer: the keys of its set, `rsa-next`, which it will use one day, `rsa1024`, which it should not,
/// and [`STRANGER`], which is not its own.
pub struct Issuer {
    keys: BTreeMap<&'static str, SigningKey>,
}

impl Issuer {
    /// The one that the tests of a process share: its keys take long to make.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Issuer> = OnceLock::new();
        SHARED.get_or_init(Self::make)
    }

    fn make() -> Self {
        let rsa = || SigningKey::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
        let p256 = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let keys = [
            ("rsa", rsa()),
            ("rsa-next", rsa()),
            ("rsa1024", weak()),
            ("p256", SigningKey::Ecdsa("P-256", p256())),
            ("p384", SigningKey::Ecdsa("P-384", p384)),
            ("ed25519", SigningKey::Ed25519(Ed25519KeyPair::generate().unwrap())),
            (STRANGER, SigningKey::Ecdsa("P-256", p256())),
        ];
        Self { keys: keys.into() }
    }

    /// The algorithm of a key.
    pub fn algorithm(&self, key: &str) -> &'static str {
        match &self.keys[key] {
            SigningKey::Rsa(_) | SigningKey::Weak(..) => "RS256",
            SigningKey::Ecdsa("P-384", _) => "ES384",
            SigningKey::Ecdsa(..) => "ES256",
            SigningKey::Ed25519(_) => "EdDSA",
        }
    }

    /// The header of a token that a key signs.
    pub fn header(&self, key: &str) -> Value {
        json!({"alg": self.algorithm(key), "kid": key})
    }

    /// A token, signed by a key as it should be, whatever header and claims say.
    pub fn sign(&self, key: &str, header: impl ToString, claims: impl ToString) -> String {
        self.sign_as(self.algorithm(key), key, header, claims)
    }

    /// The same, where an RSA key signs by another of its algorithms.
    pub fn sign_as(
        &self,
        algorithm: &str,
        key: &str,
        header: impl ToString,
        claims: impl ToString,
    ) -> String {
        let signed = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        let signature = self.signature(algorithm, key, signed.as_bytes());
        format!("{signed}.{}", base64url(signature))
    }

    fn signature(&self, algorithm: &str, key: &str, message: &[u8]) -> Vec<u8> {
        match &self.keys[key] {
            SigningKey::Rsa(pair) => {
                let padding: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            SigningKey::Weak(pem, _) => {
                let directory = TempDir::new().unwrap();
                fs::write(directory.path().join("weak.pem"), pem).unwrap();
                fs::write(directory.path().join("message"), message).unwrap();
                openssl(directory.path(), "dgst -sha256 -sign weak.pem message")
            }
            SigningKey::Ecdsa(_, pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            SigningKey::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The public half of a key, as a set has it.
    pub fn jwk(&self, key: &str) -> Value {
        let mut jwk = match &self.keys[key] {
            SigningKey::Rsa(pair) => rsa_jwk(pair.public_key().as_ref()),
            SigningKey::Weak(_, public) => rsa_jwk(public),
            SigningKey::Ecdsa(curve, pair) => {
                // A byte that says that both coordinates follow, and both.
                let point: &[u8] = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            SigningKey::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key())})
            }
        };
        jwk["kid"] = json!(key);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm(key));
        jwk
    }

    /// The public half of an RSA key in the forms in which it is handed around: a verifier that lets the
    /// token choose its algorithm takes one of them for the secret of HS256.
    pub fn public_forms(&self, key: &str) -> Vec<(&'static str, Vec<u8>)> {
        let SigningKey::Rsa(pair) = &self.keys[key] else { panic!("{key} is no RSA key") };
        let pkcs1: &[u8] = pair.public_key().as_ref();
        let x509: PublicKeyX509Der<'static> = pair.public_key().as_der().unwrap();
        let x509 = x509.as_ref().to_vec();
        let pem = pem_of(&x509);
        let modulus = self.jwk(key)["n"].as_str().unwrap().as_bytes().to_vec();
        vec![
            ("PKCS#1, DER", pkcs1.to_vec()),
            ("X.509, DER", x509),
            ("X.509, PEM without its last line's end", pem.trim_end().as_bytes().to_vec()),
            ("X.509, PEM", pem.into_bytes()),
            ("the modulus as in the set", modulus),
            ("nothing", Vec::new()),
        ]
    }
}

/// A token by HS256.
pub fn sign_hs256(secret: &[u8], header: impl ToString, claims: impl ToString) -> String {
    let signed = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", base64url(tag))
}

/// The alphabet of tokens, without padding.
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn weak() -> SigningKey {
    let directory = TempDir::new().unwrap();
    openssl(directory.path(), "genrsa -out weak.pem 1024");
    let public = openssl(directory.path(), "rsa -in weak.pem -RSAPublicKey_out -outform DER");
    SigningKey::Weak(fs::read_to_string(directory.path().join("weak.pem")).unwrap(), public)
}

fn pem_of(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: String = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n").collect();
    format!("-----BEGIN PUBLIC KEY-----\n{lines}-----END PUBLIC KEY-----\n")
}

/// Of an `RSAPublicKey` (RFC 8017, A.1.1): a sequence of modulus and exponent.
fn rsa_jwk(der: &[u8]) -> Value {
    let (numbers, _) = element(der);
    let (modulus, rest) = element(numbers);
    let (exponent, _) = element(rest);
    // Numbers have a sign; the set's do not.
    let unsigned = |number: &[u8]| base64url(number.strip_prefix(&[0_u8]).unwrap_or(number));
    json!({"kty": "RSA", "n": unsigned(modulus), "e": unsigned(exponent)})
}

/// The content of the first element of some DER, and what follows it.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (start, length) = match usize::from(der[1]) {
        length @ 0..0x80 => (2, length),
        long => {
            let start = 2 + (long & 0x7f);
            (start, der[2..start].iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)))
        }
    };
    der[start..].split_at(length)
}
