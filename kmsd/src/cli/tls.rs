//! `kmsd tls …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `kmsd tls`.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TlsCommand,
}

/// The commands of `kmsd tls`.
#[derive(Debug, Subcommand)]
pub enum TlsCommand {
    /// Make an authority of this host's own and a first certificate: ca.crt (for clients), ca.key, server.crt, server.key.
    Init(ServerArgs),
    /// Make a new server.crt for the server.key that is there, signed by the ca.key that is there. kmsd takes it by itself.
    Renew(ServerArgs),
    /// Make a certificate for a client, signed by the ca.key that is there: NAME.crt and NAME.key.
    Client(ClientArgs),
}

/// `kmsd tls init` and `kmsd tls renew`.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// A name or address by which clients reach this host; once for each.
    #[arg(long = "name", value_name = "HOST", required = true)]
    pub names: Vec<String>,
    /// For how long the certificate is good.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// `kmsd tls client`.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// Name of the client.
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// For how long the certificate is good.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Where, and for how long.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The directory of the files.
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/kmsd/tls")]
    pub directory: PathBuf,
    /// Days for which the certificate is good.
    #[arg(long, default_value_t = 397, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
}
