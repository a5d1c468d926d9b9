//! Which cluster a command talks to, and as whom.
//!
//! The local one by its state directory, where the command signs its own token; or any other by address
//! and token. An explicit token also works with the local one.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::output::refused;
use crate::state::{State, find_dir};
use crate::token::Claims;

/// Who acts on a local cluster unless told otherwise: the owner of the sample project.
pub(crate) const LOCAL_USER: &str = "demo";

/// Life of a token that a command signs for itself.
const OWN_TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);

/// The flags that name a cluster, and as whom to ask it.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// On a local cluster without --token: the user to act as [default: demo].
    #[arg(long, value_name = "ID", conflicts_with_all = ["url", "token"])]
    user: Option<String>,
}

/// The flags that name a cluster. Alone, for commands in which `--user` means somebody else.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArgs {
    /// State directory of a local cluster [default: the nearest .mille here or above].
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    state: Option<PathBuf>,
    /// Address of another cluster, such as https://mille.example.org.
    #[arg(long, requires = "token")]
    url: Option<String>,
    /// Token to use there.
    #[arg(long, value_name = "JWT")]
    token: Option<String>,
}

impl From<&ClusterArgs> for TargetArgs {
    fn from(args: &ClusterArgs) -> Self {
        Self { cluster: args.clone(), user: None }
    }
}

impl ClusterArgs {
    /// The local cluster that is meant; none if another one is.
    ///
    /// # Errors
    /// A sentence when no cluster is there.
    pub(crate) fn local(&self) -> Result<Option<State>> {
        if self.url.is_some() {
            return Ok(None);
        }
        let dir = find_dir(self.state.as_deref());
        match State::load(&dir)? {
            Some(state) => Ok(Some(state)),
            None => Err(refused(format!(
                "no cluster in {}; start one with `mille up`, or name another with --state, or with --url and --token",
                dir.display()
            ))),
        }
    }

    /// A token to show to nodes: the one given, else for a local cluster one of our own. None for nodes `elsewhere` unless a
    /// state directory is named: what lies about here need not be theirs.
    ///
    /// # Errors
    /// When it can't be signed, or no cluster is there.
    pub(crate) fn own_token(&self, elsewhere: bool) -> Result<Option<String>> {
        if let Some(token) = &self.token {
            return Ok(Some(token.clone()));
        }
        if elsewhere && self.state.is_none() {
            return Ok(None);
        }
        self.local()?.map(|state| Target::local(&state, LOCAL_USER, None).token()).transpose()
    }
}

/// A cluster, and how to prove who we are.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Addresses without a slash at the end, best first; any of them serves every request.
    pub(crate) urls: Vec<String>,
    credentials: Credentials,
}

#[derive(Debug, Clone)]
enum Credentials {
    Given(String),
    Signed { secret: String, user: String, scope: Option<String> },
}

impl TargetArgs {
    /// Which cluster, whoever asks it.
    pub(crate) fn cluster(&self) -> &ClusterArgs {
        &self.cluster
    }

    /// Finds the cluster; a token we sign ourselves gets `scope`.
    ///
    /// # Errors
    /// A sentence when no cluster is there.
    pub(crate) fn resolve(&self, scope: Option<&str>) -> Result<Target> {
        let ClusterArgs { url, token, .. } = &self.cluster;
        if let (Some(url), Some(token)) = (url, token) {
            return Target::remote(url, token);
        }
        let Some(state) = self.cluster.local()? else { bail!("an address without a token") };
        let mut target = Target::local(&state, self.user.as_deref().unwrap_or(LOCAL_USER), scope);
        if let Some(token) = token {
            target.credentials = Credentials::Given(token.clone());
        }
        Ok(target)
    }
}

impl Target {
    /// The cluster that `state` describes, as `user`.
    pub(crate) fn local(state: &State, user: &str, scope: Option<&str>) -> Self {
        let credentials = Credentials::Signed {
            secret: state.jwt_secret.clone(),
            user: user.to_owned(),
            scope: scope.map(str::to_owned),
        };
        Self { urls: state.urls(), credentials }
    }

    /// One node of the cluster that `state` describes, as `user`: for those who must know which node answers.
    pub(crate) fn node(state: &State, url: &str, user: &str) -> Self {
        Self { urls: vec![url.to_owned()], ..Self::local(state, user, None) }
    }

    fn remote(url: &str, token: &str) -> Result<Self> {
        let url = url.trim_end_matches('/');
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(refused(format!("--url {url} must begin with http:// or https://")));
        }
        Ok(Self { urls: vec![url.to_owned()], credentials: Credentials::Given(token.to_owned()) })
    }

    /// A token that is good now. Asked again at each connection, since ours would end some day.
    ///
    /// # Errors
    /// When it can't be signed.
    pub(crate) fn token(&self) -> Result<String> {
        match &self.credentials {
            Credentials::Given(token) => Ok(token.clone()),
            Credentials::Signed { secret, user, scope } => {
                Claims { scope: scope.clone(), ..Claims::new(user, OWN_TOKEN_TTL) }.sign(secret)
            }
        }
    }

    /// Whether a token that ran out can be replaced without asking anyone.
    pub(crate) fn signs_itself(&self) -> bool {
        matches!(self.credentials, Credentials::Signed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere() -> TargetArgs {
        TargetArgs { cluster: ClusterArgs { state: None, url: None, token: None }, user: None }
    }

    #[test]
    fn a_missing_cluster_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut args = nowhere();
        args.cluster.state = Some(dir.path().to_owned());
        let error = args.resolve(None).expect_err("nothing runs there").to_string();
        assert!(error.contains("mille up"), "{error}");
    }

    #[test]
    fn an_address_needs_a_scheme_and_loses_its_last_slash() {
        let args = |url: &str| {
            let mut args = nowhere();
            (args.cluster.url, args.cluster.token) = (Some(url.into()), Some("t".into()));
            args
        };
        args("mille.example.org").resolve(None).expect_err("no scheme");
        let target = args("https://mille.example.org/").resolve(None).expect("good");
        assert_eq!(target.urls, ["https://mille.example.org"]);
        assert!(!target.signs_itself());
    }
}
