//! The one crypto backend of the process: aws-lc-rs.
//!
//! Libraries that speak TLS (the client of the store, the client that fetches keys, the listener) take what is installed
//! for the process. With a second backend about, the choice would be left to the first handshake, as a panic.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// Installs the backend, if that was not done yet, and gives it. Whatever makes a TLS client or server calls this first.
pub fn backend() -> Arc<CryptoProvider> {
    if let Some(installed) = CryptoProvider::get_default() {
        return Arc::clone(installed);
    }
    let ours = rustls::crypto::aws_lc_rs::default_provider();
    // An error says that another thread was faster, with the same.
    let _ = ours.clone().install_default();
    CryptoProvider::get_default().map_or_else(|| Arc::new(ours), Arc::clone)
}
