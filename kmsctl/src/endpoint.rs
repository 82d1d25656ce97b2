//! Which kmsd is asked.

use kms_api::client::{Client, Remote};
use kms_api::sigv4::Credentials;
use zeroize::Zeroizing;

use crate::args::Cli;
use crate::exit::{Exit, Failure};

/// The client of the kmsd that the command line names.
pub(crate) fn client(cli: &Cli) -> Result<Client, Failure> {
    let Some(url) = &cli.endpoint else {
        return Ok(Client::new(&cli.socket));
    };
    let needed = |name: &str| {
        variable(name).ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                format!("--endpoint needs {name} in the environment"),
            )
            .next("Make an access key on kmsd's host with `kmsctl access-key create`.")
        })
    };
    let credentials = Credentials {
        access_key_id: needed("AWS_ACCESS_KEY_ID")?,
        secret: Zeroizing::new(needed("AWS_SECRET_ACCESS_KEY")?),
        session_token: variable("AWS_SESSION_TOKEN").map(Zeroizing::new),
    };
    if cli.account.is_some() {
        let text = "--as-account is for the socket: over the network the account is that of the access key";
        return Err(Failure::new(Exit::Usage, text));
    }
    let region = cli.region.clone();
    let region = region
        .or_else(|| variable("AWS_REGION"))
        .or_else(|| variable("AWS_DEFAULT_REGION"))
        .ok_or_else(|| {
            Failure::new(Exit::Usage, "--endpoint needs --region, or AWS_REGION in the environment")
                .next("Give the `server.region` of kmsd's configuration, `local-host-1` unless it was changed.")
        })?;
    let remote = Remote::new(url, cli.ca_file.as_deref(), region, credentials);
    let remote = remote.map_err(|error| {
        Failure::new(Exit::Usage, error.to_string()).next(
            "Give the URL as https://HOST:PORT, and the file with kmsd's authority with --ca-file.",
        )
    })?;
    Ok(Client::of_remote(remote))
}

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
