//! occd: arguments, logging and signals around [`occd::daemon`].

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use occ_proto::paths::Env;
use occd::container::OpencodeConfig;
use occd::daemon::{Daemon, Place, StartError};
use occd::socket::PassedSocket;
use occd::ssh::error::chain;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The exit status for a bad configuration (`EX_CONFIG`, sysexits.h): the systemd unit does not start
/// the daemon again on it.
const BAD_CONFIG: u8 = 78;

/// The daemon behind occ: keeps SSH connections and serves them on a private Unix socket
#[derive(Debug, Parser)]
#[command(version, after_help = "Usually occ starts it by itself, or systemctl --user start occd.")]
struct Arguments {
    /// The control socket, in place of $XDG_RUNTIME_DIR/occ/occd.sock
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Leave the terminal, log to a file, and print "ready" on stdout once clients are accepted; occ daemon start does
    /// this and comes back
    #[arg(long)]
    daemonize: bool,
    /// Log to this file, which is put aside when it is large, and not to stderr
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Look at the settings and at what else a start needs, say what is wrong, and end
    #[arg(long)]
    check: bool,
    /// A policy that is in force beside the system-wide one, and so can only restrict more
    #[arg(long, value_name = "PATH", hide = true)]
    system_policy: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may be a file; whoever started us reads stderr.
            let _ = writeln!(std::io::stderr(), "{}", chain(error.as_ref()));
            let bad_config = matches!(error.downcast_ref(), Some(StartError::Config(_)));
            if bad_config { ExitCode::from(BAD_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    occd::rest::prepare();
    let env = Env::from_process();
    let passed = PassedSocket::take()?;
    let socket = match &passed {
        Some(passed) => passed.path().to_owned(),
        None => env.socket(arguments.socket.as_deref())?,
    };
    let log_file = match &arguments.log_file {
        Some(path) => Some(path.clone()),
        None => arguments.daemonize.then(|| env.log_file()).transpose()?,
    };
    if arguments.check {
        // No reason not to start, so that it is said elsewhere.
        if let Err(error) = OpencodeConfig::find(&env.opencode_config_candidates()?) {
            writeln!(std::io::stdout(), "{error}")?;
        }
        let to_make = passed.is_none().then_some(socket.as_path());
        occd::check::check(&env, arguments.system_policy.clone(), to_make)?;
        if let Some(path) = &log_file {
            occd::logging::check(path)?;
        }
        return Ok(());
    }
    let agent = std::env::var_os("SSH_AUTH_SOCK").filter(|v| !v.is_empty()).map(PathBuf::from);
    occd::process::harden();
    if arguments.daemonize && !occd::process::leave_session()? {
        return Ok(());
    }
    let daemon = Daemon::bind(
        env.clone(),
        arguments.system_policy.clone(),
        passed.map_or_else(|| Place::Path(socket.clone()), Place::Passed),
        occd::process::login_user()?,
        agent,
        occd::process::given_key(),
    )?;
    let log = occd::logging::start(log_file.as_deref(), daemon.log_format())?;
    // A daemon without a terminal has nowhere else to say it.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a defect of occd")));
    let has_terminal = !arguments.daemonize && std::io::stderr().is_terminal();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        // Caught, so that a write beyond RLIMIT_FSIZE fails instead of ending us; never waited for.
        let _too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
        let on_signal = stop.clone();
        let reload = Arc::new(Notify::new());
        let on_hang_up = Arc::clone(&reload);
        let signals = async move {
            loop {
                let hung_up = tokio::select! {
                    _ = terminate.recv() => false,
                    _ = interrupt.recv() => false,
                    _ = hang_up.recv() => true,
                };
                // A terminal that closes hangs up, too, and ends what was started there.
                if !hung_up || has_terminal {
                    break;
                }
                on_hang_up.notify_one();
            }
            on_signal.cancel();
            std::future::pending::<()>().await;
        };
        let ready = || occd::process::notify_ready(&socket, arguments.daemonize);
        tokio::select! {
            result = daemon.run(stop, reload, log, ready) => result.map_err(Into::into),
            () = signals => Ok(()),
        }
    });
    // Tasks that did not end in time are not waited for.
    runtime.shutdown_background();
    result
}
