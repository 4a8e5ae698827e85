//! Options of `mesp dash` and `mesp report`.

use std::path::PathBuf;

use clap::Args;

use super::{ReplaceArgs, SharedArgs};

#[derive(Debug, Args)]
pub(crate) struct DashArgs {
    /// Run directories, or directories of runs [default: mesp-out if it is there, else the current directory]
    #[arg(value_name = "DIR")]
    pub(crate) runs: Vec<PathBuf>,
    /// Port on 127.0.0.1; 0 takes any that is free [default: 6377, or the next one that is free]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Open the page in the browser
    #[arg(long)]
    pub(crate) open: bool,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Run directories, or directories of runs [default: mesp-out if it is there, else the current directory]
    #[arg(value_name = "DIR")]
    pub(crate) runs: Vec<PathBuf>,
    /// The file to write [default: report.html in the first directory]
    #[arg(long, value_name = "FILE.html")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) replace: ReplaceArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
}
