//! A narrow door for tests that throw anything at the parsers of this layer: what a text is read as, and nothing else.
//! No client comes through here.

use mille_shared::ErrorCode;

use super::Dialect;
use super::frames::ClientFrame;
use super::request::{Documents, OperationRequest};

/// What a client's frame was read as.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadFrame {
    /// The operation it is of, if it is of one.
    pub id: Option<String>,
    /// The operation it begins, if it begins one.
    pub query: Option<String>,
    /// What became of that operation before it is run.
    pub prepared: Option<Result<(), ErrorCode>>,
}

/// Reads a frame as a socket does. The error is the reason of the close.
///
/// # Errors
/// If it is no frame of this dialect.
pub fn read_frame(dialect: Dialect, text: &str) -> Result<ReadFrame, String> {
    Ok(match dialect.decode(text).map_err(|error| error.to_string())? {
        ClientFrame::Subscribe { id, request } => {
            let query = request.query.clone();
            ReadFrame { id: Some(id), query, prepared: Some(prepare(request)) }
        }
        ClientFrame::Complete { id } => ReadFrame { id: Some(id), query: None, prepared: None },
        ClientFrame::Init(_) | ClientFrame::Ping(_) | ClientFrame::Pong | ClientFrame::Terminate => {
            ReadFrame { id: None, query: None, prepared: None }
        }
    })
}

/// Reads the body of a request as the HTTP doors do. `None`: it is no request.
#[must_use]
pub fn read_request(body: &[u8]) -> Option<Result<(), ErrorCode>> {
    serde_json::from_slice(body).ok().map(prepare)
}

fn prepare(request: OperationRequest) -> Result<(), ErrorCode> {
    request.prepare(&Documents::default()).map(drop).map_err(|refusal| refusal.code)
}
