//! What is refused, and that keys can change under way. Every token here is made the way an attacker or an issuer
//! would make it; the doors' answers are tested with the doors.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header};
use mille_shared::CloseCode;
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "a secret of more than 32 bytes, for tests";
/// Made for these tests; they open nothing.
const RSA_PRIVATE: &str = include_str!("testdata/rsa.pem");
const RSA_PUBLIC: &str = include_str!("testdata/rsa.pub.pem");
const EC_PRIVATE: &str = include_str!("testdata/ec.pem");
const EC_PUBLIC: &str = include_str!("testdata/ec.pub.pem");
const ED_PRIVATE: &str = include_str!("testdata/ed.pem");
const ED_PUBLIC: &str = include_str!("testdata/ed.pub.pem");

fn claims() -> Value {
    json!({"sub": "ada", "exp": unix_seconds() + 600, "name": "Ada", "color": "#0f0", "scope": "admin x"})
}

fn with(mut claims: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().expect("an object") {
        claims[key] = value.clone();
    }
    claims
}

fn signed(header: &Header, claims: &Value, key: &EncodingKey) -> BearerToken {
    BearerToken::new(jsonwebtoken::encode(header, claims, key).expect("a token"))
}

fn hs256(claims: &Value) -> BearerToken {
    signed(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes()))
}

fn secret_settings() -> AuthSettings {
    AuthSettings::new(KeySettings::Secret { secret: SECRET.to_owned(), next: None })
}

async fn judged(settings: &AuthSettings, token: &BearerToken) -> Result<Identity, TokenRefused> {
    Authenticator::new(settings).await.expect("usable settings").verify(token).await
}

fn file_of(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("room on the disk");
    file
}

fn encode_segment(json: &Value) -> String {
    // Unpadded base64url, by hand: the token must be one that no library of ours would make.
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in json.to_string().as_bytes().chunks(3) {
        let bits = chunk.iter().enumerate().fold(0u32, |bits, (i, byte)| bits | u32::from(*byte) << (16 - 8 * i));
        for sextet in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * sextet) & 63) as usize]));
        }
    }
    text
}

#[tokio::test]
async fn a_good_token_says_who_its_bearer_is() {
    let identity = judged(&secret_settings(), &hs256(&with(claims(), json!({"jti": "t1", "agent": true})))).await;
    let identity = identity.expect("a good token");
    assert_eq!(identity.user_id.as_str(), "ada");
    assert_eq!((identity.name.as_deref(), identity.color.as_deref()), (Some("Ada"), Some("#0f0")));
    assert_eq!(identity.scopes.names(), ["admin"]);
    assert!(identity.agent && identity.expires_at > unix_seconds());
    assert_eq!(identity.token_id.as_ref().map(mille_shared::TokenId::as_str), Some("t1"));
}

#[tokio::test]
async fn times_are_judged_with_the_leeway_and_no_more() {
    let now = unix_seconds();
    let settings = secret_settings();
    for (changes, expected) in [
        (json!({"exp": now - 2}), Ok(())),
        (json!({"exp": now - 8}), Err(TokenRefused::Expired)),
        (json!({"exp": 0}), Err(TokenRefused::Expired)),
        (json!({"nbf": now + 2}), Ok(())),
        (json!({"nbf": now + 60}), Err(TokenRefused::NotYetValid)),
    ] {
        assert_eq!(
            judged(&settings, &hs256(&with(claims(), changes.clone()))).await.map(|_| ()),
            expected,
            "{changes}"
        );
    }
}

#[tokio::test]
async fn a_claim_that_is_needed_must_be_there_and_make_sense() {
    let too_long = "x".repeat(201);
    for (changes, claim) in [
        (json!({"sub": null}), "sub"),
        (json!({"sub": 7}), "sub"),
        (json!({"sub": ""}), "sub"),
        (json!({"sub": too_long}), "sub"),
        (json!({"exp": null}), "exp"),
        (json!({"exp": "soon"}), "exp"),
    ] {
        let refused = judged(&secret_settings(), &hs256(&with(claims(), changes.clone()))).await;
        assert_eq!(refused, Err(TokenRefused::Claim { claim: claim.to_owned() }), "{changes}");
    }
    let mut settings = secret_settings();
    settings.issuer = Some("us".to_owned());
    settings.audience = Some("mille".to_owned());
    for (changes, expected) in [
        (json!({"iss": "us", "aud": ["other", "mille"]}), Ok(())),
        (json!({"iss": "us"}), Err(TokenRefused::Claim { claim: "aud".to_owned() })),
        (json!({"aud": "mille"}), Err(TokenRefused::Claim { claim: "iss".to_owned() })),
        (json!({"iss": "them", "aud": "mille"}), Err(TokenRefused::Issuer)),
        (json!({"iss": "us", "aud": "other"}), Err(TokenRefused::Audience)),
    ] {
        assert_eq!(
            judged(&settings, &hs256(&with(claims(), changes.clone()))).await.map(|_| ()),
            expected,
            "{changes}"
        );
    }
    let meant_for_others = hs256(&with(claims(), json!({"aud": "other", "iss": "them"})));
    assert!(judged(&secret_settings(), &meant_for_others).await.is_ok(), "nothing is asked for, so nothing is checked");
}

#[tokio::test]
async fn what_decorates_never_costs_the_token() {
    let odd = with(claims(), json!({"name": 7, "color": null, "agent": "yes", "scope": ["admin"], "jti": {}}));
    let identity = judged(&secret_settings(), &hs256(&odd)).await.expect("still a good token");
    assert_eq!((identity.name, identity.color, identity.agent), (None, None, false));
    assert_eq!(identity.scopes, Scopes::default());
    let long = hs256(&with(claims(), json!({"name": "ä".repeat(150)})));
    let identity = judged(&secret_settings(), &long).await.expect("still a good token");
    assert_eq!(identity.name.map(|name| name.len()), Some(200));
}

#[tokio::test]
async fn no_algorithm_but_the_keys_own_is_taken() {
    let settings = secret_settings();
    let other = EncodingKey::from_secret(b"another secret of more than 32 bytes ...");
    let forged = signed(&Header::new(Algorithm::HS256), &claims(), &other);
    assert_eq!(judged(&settings, &forged).await, Err(TokenRefused::Signature));
    let hs512 = signed(&Header::new(Algorithm::HS512), &claims(), &EncodingKey::from_secret(SECRET.as_bytes()));
    assert_eq!(judged(&settings, &hs512).await, Err(TokenRefused::Algorithm));
    let rsa = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).expect("a key");
    assert_eq!(
        judged(&settings, &signed(&Header::new(Algorithm::RS256), &claims(), &rsa)).await,
        Err(TokenRefused::Algorithm)
    );

    for none in ["none", "None", "NONE", "nOnE"] {
        let header = json!({"alg": none, "typ": "JWT"});
        let token = format!("{}.{}.", encode_segment(&header), encode_segment(&claims()));
        assert_eq!(judged(&settings, &BearerToken::new(token)).await, Err(TokenRefused::Malformed), "{none}");
    }
    for garbage in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", &"x".repeat(20_000)] {
        assert_eq!(judged(&settings, &BearerToken::new(garbage)).await, Err(TokenRefused::Malformed), "{garbage:.10}");
    }
}

#[tokio::test]
async fn a_public_key_is_never_a_shared_secret() {
    for (public, private, algorithm) in [
        (RSA_PUBLIC, EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()), Algorithm::RS256),
        (EC_PUBLIC, EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()), Algorithm::ES256),
        (ED_PUBLIC, EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()), Algorithm::EdDSA),
    ] {
        let file = file_of(public);
        let settings = AuthSettings::new(KeySettings::PublicKeyFile(file.path().to_owned()));
        let good = signed(&Header::new(algorithm), &claims(), &private.expect("a key"));
        assert!(judged(&settings, &good).await.is_ok(), "{algorithm:?}");
        // The attacker knows the public key and signs with its bytes as if it were a secret.
        for trimmed in [public, public.trim_end()] {
            let forged =
                signed(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(trimmed.as_bytes()));
            assert_eq!(judged(&settings, &forged).await, Err(TokenRefused::Algorithm), "{algorithm:?}");
        }
        let mut of_another_family = settings.clone();
        of_another_family.algorithms = vec![Algorithm::HS256];
        assert!(matches!(Authenticator::new(&of_another_family).await, Err(KeyError::NoAlgorithm)));
    }
}

#[tokio::test]
async fn settings_that_protect_nothing_are_refused() {
    let short = AuthSettings::new(KeySettings::Secret { secret: "short".to_owned(), next: None });
    assert!(matches!(Authenticator::new(&short).await, Err(KeyError::SecretTooShort { actual: 5, .. })));
    let private = file_of(RSA_PRIVATE);
    let garbage = file_of("no key");
    for file in [&garbage, &private] {
        let settings = AuthSettings::new(KeySettings::PublicKeyFile(file.path().to_owned()));
        let refused = Authenticator::new(&settings).await.err().map(|error| error.to_string());
        assert!(refused.is_some_and(|text| !text.contains("PRIVATE")), "{file:?}");
    }
    let missing = AuthSettings::new(KeySettings::JwksFile("/nowhere/keys.json".into()));
    assert!(matches!(Authenticator::new(&missing).await, Err(KeyError::File { .. })));
}

#[tokio::test]
async fn the_next_secret_is_taken_beside_the_present_one() {
    let next = "the secret that follows, also of 32 bytes";
    let settings = AuthSettings::new(KeySettings::Secret { secret: SECRET.to_owned(), next: Some(next.to_owned()) });
    let by_next = signed(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(next.as_bytes()));
    assert!(judged(&settings, &by_next).await.is_ok());
    assert!(judged(&settings, &hs256(&claims())).await.is_ok());
    let expired = hs256(&with(claims(), json!({"exp": 5})));
    assert_eq!(
        judged(&settings, &expired).await,
        Err(TokenRefused::Expired),
        "not `Signature`, the other key's answer"
    );
}

fn jwk(private: &EncodingKey, algorithm: Algorithm, id: &str) -> Value {
    let mut jwk = Jwk::from_encoding_key(private, algorithm).expect("a public key");
    jwk.common.key_id = Some(id.to_owned());
    serde_json::to_value(jwk).expect("a JWK is JSON")
}

fn named(algorithm: Algorithm, id: &str) -> Header {
    Header { kid: Some(id.to_owned()), ..Header::new(algorithm) }
}

#[tokio::test]
async fn of_a_key_set_only_what_is_safe_is_used() {
    let rsa = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).expect("a key");
    let symmetric = json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": "YSBzZWNyZXQgb2YgbW9yZSB0aGFuIDMyIGJ5dGVz"});
    let mut encrypts = jwk(&rsa, Algorithm::RS256, "e");
    encrypts["use"] = json!("enc");
    let set = json!({"keys": [symmetric, encrypts, {"kty": "future"}, 7, jwk(&rsa, Algorithm::RS256, "r")]});
    let file = file_of(&set.to_string());
    let settings = AuthSettings::new(KeySettings::JwksFile(file.path().to_owned()));

    assert!(judged(&settings, &signed(&named(Algorithm::RS256, "r"), &claims(), &rsa)).await.is_ok());
    assert!(judged(&settings, &signed(&Header::new(Algorithm::RS256), &claims(), &rsa)).await.is_ok(), "without a kid");
    let by_symmetric = EncodingKey::from_secret(b"a secret of more than 32 bytes");
    for (header, key) in [
        (named(Algorithm::HS256, "s"), &by_symmetric),
        (named(Algorithm::HS256, "r"), &by_symmetric),
        (named(Algorithm::RS256, "e"), &rsa),
        (named(Algorithm::RS512, "r"), &rsa),
    ] {
        let refused = judged(&settings, &signed(&header, &claims(), key)).await;
        assert!(matches!(refused, Err(TokenRefused::UnknownKey | TokenRefused::Algorithm)), "{header:?}: {refused:?}");
    }
    let only_symmetric = file_of(&json!({"keys": [symmetric]}).to_string());
    let settings = AuthSettings::new(KeySettings::JwksFile(only_symmetric.path().to_owned()));
    assert!(matches!(Authenticator::new(&settings).await, Err(KeyError::Jwks { .. })));
}

/// An issuer on this machine: its document can be changed, its requests are counted.
struct Issuer {
    url: Url,
    document: Arc<ArcSwap<String>>,
    requests: Arc<AtomicUsize>,
    unchanged: Arc<AtomicUsize>,
}

async fn start_issuer(document: &Value) -> Issuer {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("an address")).parse().expect("a URL");
    let document = Arc::new(ArcSwap::from_pointee(document.to_string()));
    let requests = Arc::new(AtomicUsize::new(0));
    let unchanged = Arc::new(AtomicUsize::new(0));
    let (served, counted, same) = (Arc::clone(&document), Arc::clone(&requests), Arc::clone(&unchanged));
    let keys = move |headers: HeaderMap| async move {
        counted.fetch_add(1, Ordering::SeqCst);
        let text = served.load();
        if text.is_empty() {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        let tag = format!("\"{}\"", text.len());
        if headers.get(header::IF_NONE_MATCH).is_some_and(|shown| shown.as_bytes() == tag.as_bytes()) {
            same.fetch_add(1, Ordering::SeqCst);
            return StatusCode::NOT_MODIFIED.into_response();
        }
        ([(header::ETAG, tag)], text.to_string()).into_response()
    };
    let router = axum::Router::new().route("/keys", axum::routing::get(keys));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Issuer { url, document, requests, unchanged }
}

/// Lets time pass for the timers; what waits for the network goes on in real time.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn keys_rotate_without_a_restart_and_nobody_can_make_us_hammer_the_issuer() {
    let old = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).expect("a key");
    let new = EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).expect("a key");
    let issuer = start_issuer(&json!({"keys": [jwk(&old, Algorithm::RS256, "old")]})).await;
    let settings = AuthSettings::new(KeySettings::JwksUrl(issuer.url.clone()));
    let authenticator = Authenticator::new(&settings).await.expect("keys");
    let by_old = signed(&named(Algorithm::RS256, "old"), &claims(), &old);
    let by_new = signed(&named(Algorithm::ES256, "new"), &claims(), &new);
    assert!(authenticator.has_keys() && authenticator.verify(&by_old).await.is_ok());
    assert_eq!(authenticator.verify(&by_new).await, Err(TokenRefused::UnknownKey));
    assert_eq!(issuer.requests.load(Ordering::SeqCst), 1, "the first read was a moment ago");

    issuer.document.store(Arc::new(json!({"keys": [jwk(&new, Algorithm::ES256, "new")]}).to_string()));
    pass(UNKNOWN_KEY_INTERVAL).await;
    let crowd = (0..50).map(|_| {
        let (authenticator, token) = (authenticator.clone(), by_new.clone());
        tokio::spawn(async move { authenticator.verify(&token).await.is_ok() })
    });
    for verified in crowd.collect::<Vec<_>>() {
        assert!(verified.await.expect("no panic"));
    }
    assert_eq!(issuer.requests.load(Ordering::SeqCst), 2, "one look for all of them");
    assert_eq!(authenticator.verify(&by_old).await, Err(TokenRefused::UnknownKey), "the issuer took it back");

    issuer.document.store(Arc::new(String::new()));
    pass(UNKNOWN_KEY_INTERVAL).await;
    assert_eq!(authenticator.verify(&by_old).await, Err(TokenRefused::UnknownKey));
    assert_eq!(issuer.requests.load(Ordering::SeqCst), 3);
    assert!(authenticator.verify(&by_new).await.is_ok(), "the last good set stays while the issuer fails");
}

#[tokio::test]
async fn a_key_file_may_hold_the_next_key_beside_the_present_one_and_is_read_again() {
    let old = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).expect("a key");
    let new = EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).expect("a key");
    let file = file_of(RSA_PUBLIC);
    let settings = AuthSettings::new(KeySettings::PublicKeyFile(file.path().to_owned()));
    let authenticator = Authenticator::new(&settings).await.expect("keys");
    let by_old = signed(&Header::new(Algorithm::RS256), &claims(), &old);
    let by_new = signed(&Header::new(Algorithm::ES256), &claims(), &new);
    assert!(authenticator.verify(&by_old).await.is_ok());
    let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
    std::fs::write(file.path(), format!("{RSA_PUBLIC}\n{other}\n{EC_PUBLIC}")).expect("a file");
    assert_eq!(authenticator.verify(&by_new).await, Err(TokenRefused::Algorithm), "it was read a moment ago");
    pass(UNKNOWN_KEY_INTERVAL).await;
    assert!(authenticator.verify(&by_new).await.is_ok() && authenticator.verify(&by_old).await.is_ok());

    std::fs::write(file.path(), format!("{EC_PUBLIC}\n-----BEGIN PUBLIC KEY-----\nhalf")).expect("a file");
    pass(UNKNOWN_KEY_INTERVAL).await;
    let foreign = EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).expect("a key");
    let by_none = signed(&Header::new(Algorithm::EdDSA), &claims(), &foreign);
    assert!(authenticator.verify(&by_none).await.is_err());
    assert!(authenticator.verify(&by_old).await.is_ok(), "a file that is half written leaves what is in force");
    std::fs::write(file.path(), EC_PUBLIC).expect("a file");
    pass(UNKNOWN_KEY_INTERVAL).await;
    assert!(authenticator.verify(&by_none).await.is_err());
    assert_eq!(authenticator.verify(&by_old).await, Err(TokenRefused::Algorithm), "its key is gone");
    assert!(authenticator.verify(&by_new).await.is_ok());
}

#[tokio::test]
async fn an_issuer_that_comes_late_is_asked_again_and_unchanged_keys_are_not_sent_twice() {
    let key = EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).expect("a key");
    let issuer = start_issuer(&json!({})).await;
    issuer.document.store(Arc::new(String::new()));
    let settings = AuthSettings::new(KeySettings::JwksUrl(issuer.url.clone()));
    let authenticator = Authenticator::new(&settings).await.expect("an issuer that is down must not stop the start");
    let token = signed(&named(Algorithm::EdDSA, "k"), &claims(), &key);
    assert!(!authenticator.has_keys());
    let refused = authenticator.verify(&token).await.expect_err("there are no keys");
    assert_eq!(refused, TokenRefused::KeysUnavailable);
    assert_eq!(refused.closes().1, CloseCode::TryAgainLater, "4403 would have its client sign in anew");

    let jwk = jwk(&key, Algorithm::EdDSA, "k");
    issuer.document.store(Arc::new(json!({"keys": [jwk]}).to_string()));
    pass(UNKNOWN_KEY_INTERVAL).await;
    assert!(authenticator.verify(&token).await.is_ok());

    pass(UNKNOWN_KEY_INTERVAL).await;
    let unknown = signed(&named(Algorithm::EdDSA, "other"), &claims(), &key);
    assert_eq!(authenticator.verify(&unknown).await, Err(TokenRefused::UnknownKey));
    assert_eq!(issuer.unchanged.load(Ordering::SeqCst), 1);
    assert!(authenticator.verify(&token).await.is_ok());
}

#[test]
fn a_refusal_says_nothing_of_the_token() {
    let token = hs256(&claims());
    assert!(!format!("{token:?}").contains("eyJ"));
    let key = KeySet::from_secrets([SECRET], &[]).expect("a key");
    assert!(!format!("{key:?}").contains("secret"));
}
