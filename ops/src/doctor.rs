//! `mille doctor`: what is wrong with a cluster, and what to do about it.
//!
//! The nodes tell facts (`GET /admin/facts`), each of itself and of the Redis it sees; only here are they compared and judged.
//! What could not be learned is said to be unknown, never to be well. Clusters change while they are looked at: a finding that
//! is gone at the second look was one of these moments.

mod cluster;
mod finding;
mod look;
mod node;
mod redis;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use self::finding::{Finding, Status};
use self::look::Look;
use crate::admin::AdminArgs;
use crate::output::{Output, refused};
use crate::status::table;
use crate::target::ClusterArgs;

/// `mille doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Looks at the cluster and says what was found; fails if anything of it is an error.
pub(crate) async fn run(args: &DoctorArgs, output: &Output) -> Result<ExitCode> {
    let doors = args.admin.doors(&args.cluster)?;
    if doors.is_empty() {
        return Err(refused("the doctor asks nodes at their admin addresses: name each with --admin-url"));
    }
    let look = Look::at(doors, args.cluster.own_token(!args.admin.admin_urls.is_empty())?).await?;
    let mut findings = judge(&look);
    // The worst first; what is of one check stays together.
    findings.sort_by(|one, other| other.status.cmp(&one.status).then_with(|| one.name.cmp(other.name)));
    if output.is_json() {
        output.value(&json!({ "checks": findings }));
    } else {
        output.line(text(&findings));
    }
    let failed = findings.iter().any(|finding| finding.status == Status::Error);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn judge(look: &Look) -> Vec<Finding> {
    let mut findings = cluster::judge(look);
    findings.extend(redis::judge(look));
    findings.extend(look.nodes.iter().flat_map(node::judge));
    findings
}

/// What is wrong first, each with what to do; then what is well, in short.
fn text(findings: &[Finding]) -> String {
    let mut rows = vec![["", "CHECK", "NODE", "FOUND"].map(str::to_owned).to_vec()];
    for same in
        findings.chunk_by(|one, next| one.status == Status::Ok && next.status == Status::Ok && one.name == next.name)
    {
        let Some(first) = same.first() else { continue };
        let node = match (&first.node, same.len()) {
            (_, 2..) => "all".to_owned(),
            (Some(node), _) => node.clone(),
            (None, _) => "-".to_owned(),
        };
        let mut details: Vec<&str> = same.iter().map(|finding| finding.detail.as_str()).collect();
        details.dedup();
        rows.push(vec![first.status.to_string(), first.name.to_owned(), node, details.join("; ")]);
        let advice = first.advice.iter().map(|advice| format!("-> {advice}"));
        rows.extend(advice.map(|advice| vec![String::new(), String::new(), String::new(), advice]));
    }
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let (errors, warnings) = (count(Status::Error), count(Status::Warning));
    format!("{}\n\nchecks: {}, warnings: {warnings}, errors: {errors}", table(&rows), findings.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_stands_below_what_is_wrong() {
        let findings = [
            Finding::error("lease", "it is short").on("node-1").advise("make it longer"),
            Finding::ok("clock", "all agree").on("node-1"),
            Finding::ok("clock", "all agree").on("node-2"),
        ];
        let told = text(&findings);
        let lines: Vec<&str> = told.lines().map(str::trim_end).collect();
        assert!(lines[1].starts_with("error  lease  node-1  it is short"), "{told}");
        assert_eq!(lines[2].trim(), "-> make it longer");
        assert!(lines[3].starts_with("ok     clock  all     all agree"), "{told}");
        assert_eq!(lines[5], "checks: 3, warnings: 0, errors: 1");
    }
}
