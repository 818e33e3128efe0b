//! The command line: arguments become a [`Command`]. Nothing is executed here.
//!
//! `-c`, `-p` and `-v` mean what they mean in mosquitto, so that habits and test scripts carry over.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::admin::ctl::CtlArgs;
use crate::auth::passwd::PasswdArgs;
use crate::settings::{Address, Config, Listener, LogLevel};

/// What the arguments ask midge to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Serve clients until a signal.
    Serve(Serve),
    /// Check a configuration file, print the outcome, and end.
    CheckConfig(CheckConfig),
    /// Print the configuration that does the same as a mosquitto.conf.
    ImportMosquitto {
        /// The file.
        file: PathBuf,
        /// Leave out what midge does not support.
        partial: bool,
    },
    /// Take over the state that mosquitto has kept.
    ImportDatabase(ImportDatabase),
    /// Change a password file.
    Passwd(PasswdArgs),
    /// Inspect or repair the state directory of a broker that is not running.
    Store(StoreAction),
    /// Ask a running midge.
    Ctl(Box<CtlArgs>),
    /// Print the completions of the command line for a shell.
    Completions(Shell),
    /// Write the manual pages to a directory.
    Man(PathBuf),
}

/// How to check a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct CheckConfig {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Print every option that is in force, as a configuration file, with where its value comes from: a line of a file,
    /// a variable of the environment, or the default
    #[arg(long)]
    pub print: bool,

    /// Check what a start would need too: ports, paths, permissions, certificates, the state directory, the limit on open
    /// files, io_uring. Run it as the user that midge runs as. Exit status 1 if a start would fail
    #[arg(long, conflicts_with = "print")]
    pub deep: bool,
}

/// What to do with a state directory.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum StoreAction {
    /// Read everything; exit status 1 if something is damaged
    Verify {
        /// The directory, as the start-up lines name it
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print a line for each session, subscription, queued and retained message, without payloads
    Dump {
        /// The directory, as the start-up lines name it
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Set damaged files aside, and merge the log into the checkpoint
    Repair {
        /// The directory, as the start-up lines name it
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// Where mosquitto's state is, and where midge's goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportDatabase {
    /// mosquitto's file.
    pub database: PathBuf,
    /// The state directory. `None`: the one of the configuration.
    pub into: Option<PathBuf>,
    /// The configuration that midge will serve with.
    pub serve: Serve,
}

/// How midge serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Serve {
    /// Configuration file. Without one midge listens on 127.0.0.1:1883, accepts anonymous clients, and has every option
    /// at its default
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Serve as mosquitto 2 would with this mosquitto.conf. A setting that midge can't follow is an error
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub mosquitto_conf: Option<PathBuf>,

    /// Listen on 127.0.0.1:PORT instead of the configured listeners. 0: a free port. With --mosquitto-conf it works as
    /// -p of mosquitto: only if the file has no listener
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<u16>,

    /// Log at level "debug", whatever log.level says
    #[arg(short, long)]
    pub verbose: bool,

    /// Keep nothing over a restart, whatever persistence.directory says
    #[arg(long)]
    pub ephemeral: bool,
}

impl Serve {
    /// Lets the options of the command line override those of the file.
    pub fn apply(&self, config: &mut Config) {
        // The reader of a mosquitto.conf has applied the port already.
        if let (Some(port), None) = (self.port, &self.mosquitto_conf) {
            config.listeners = vec![Listener { address: Address::loopback(port), ..Listener::default() }];
        }
        if self.verbose {
            config.log.level = config.log.level.max(LogLevel::Debug);
        }
        if self.ephemeral {
            config.persistence.directory.clear();
        }
    }
}

/// Reads the arguments. The first one is the program's name.
///
/// `--help` and `--version` are errors too: `error.exit()` prints the text to the right stream. It ends the
/// process with status 0 for these two, and with 2 for bad usage.
pub fn parse<I, T>(arguments: I) -> Result<Command, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let arguments = Arguments::try_parse_from(arguments)?;
    Ok(match arguments.action {
        None => Command::Serve(arguments.serve),
        Some(Action::Serve(serve)) => Command::Serve(serve),
        Some(Action::CheckConfig(arguments)) => Command::CheckConfig(arguments),
        Some(Action::ImportMosquitto { database: Some(database), into, config, mosquitto_conf, .. }) => {
            let serve = Serve { config, mosquitto_conf, ..Serve::default() };
            Command::ImportDatabase(ImportDatabase { database, into, serve })
        }
        Some(Action::ImportMosquitto { file, partial, .. }) => {
            Command::ImportMosquitto { file: file.unwrap_or_default(), partial }
        }
        Some(Action::Passwd(arguments)) => Command::Passwd(arguments),
        Some(Action::Store { action }) => Command::Store(action),
        Some(Action::Ctl(arguments)) => Command::Ctl(arguments),
        Some(Action::Completions { shell }) => Command::Completions(shell),
        Some(Action::Man { directory }) => Command::Man(directory),
    })
}

/// The declaration of the command line, for completions and manual pages.
pub fn declaration() -> clap::Command {
    Arguments::command()
}

#[derive(Debug, Parser)]
#[command(
    name = "midge",
    version,
    about = "An MQTT 3.1, 3.1.1 and 5.0 broker",
    after_help = "Without a command, midge serves. Exit status: 0 after SIGTERM, SIGINT, SIGQUIT or a successful \
                  check; 1 if midge cannot start or continue; 2 for bad usage or a bad configuration file; 3 if \
                  import-mosquitto --partial has left something out.",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(flatten)]
    serve: Serve,

    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Serve clients until SIGTERM, SIGINT or SIGQUIT
    Serve(Serve),
    /// Print the midge.toml that does the same as a mosquitto.conf. If midge can't do the same, print every error to
    /// standard error and end with status 2. With --database, take over mosquitto's state
    ImportMosquitto {
        /// The mosquitto.conf
        #[arg(value_name = "FILE", required_unless_present = "database", conflicts_with = "database")]
        file: Option<PathBuf>,

        /// Leave out what midge does not support, with a comment for each line; exit status 3 if there is any. A
        /// listener that would be open to others without such a line is left out as a whole
        #[arg(long, conflicts_with = "database")]
        partial: bool,

        /// Copy retained messages, sessions, subscriptions and queued messages from this mosquitto.db into midge's
        /// state directory, which must be empty. Stop mosquitto first, and run this as the user that midge runs as
        #[arg(long, value_name = "FILE")]
        database: Option<PathBuf>,

        /// The state directory. Without this option: the one of the configuration
        #[arg(long, value_name = "DIR", requires = "database", conflicts_with = "file")]
        into: Option<PathBuf>,

        /// The configuration file with which midge will serve
        #[arg(short, long, value_name = "FILE", requires = "database", conflicts_with = "file")]
        config: Option<PathBuf>,

        /// The mosquitto.conf with which midge will serve
        #[arg(long, value_name = "FILE", requires = "database", conflicts_with_all = ["config", "file"])]
        mosquitto_conf: Option<PathBuf>,
    },
    /// Set the password of a user in a password file, or remove the user
    Passwd(PasswdArgs),
    /// Inspect or repair the state directory of a broker that is not running: verify, dump, repair
    Store {
        #[command(subcommand)]
        action: StoreAction,
    },
    /// Ask a running midge by its admin interface. Exit status: 0; 1 if the answer is no; 2 if there is no answer
    Ctl(Box<CtlArgs>),
    /// Print the completions of the command line for a shell, for the file that it reads
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages of all commands and of the configuration file to a directory
    Man {
        /// The directory, which must exist
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Check a configuration file. If it is wrong, print every error to standard error and end with status 2
    CheckConfig(CheckConfig),
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn command(line: &str) -> Result<Command, clap::Error> {
        parse(line.split(' '))
    }

    fn serve(config: Option<&str>, port: Option<u16>, verbose: bool) -> Command {
        Command::Serve(Serve { config: config.map(PathBuf::from), port, verbose, ..Serve::default() })
    }

    #[test]
    fn the_declaration_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn serving_is_what_midge_does_with_and_without_its_name() {
        for (line, expected) in [
            ("midge", serve(None, None, false)),
            ("midge serve", serve(None, None, false)),
            ("midge --config a.toml", serve(Some("a.toml"), None, false)),
            ("midge serve --config a.toml", serve(Some("a.toml"), None, false)),
            ("midge -c a.toml", serve(Some("a.toml"), None, false)),
            ("midge -v -p 1884", serve(None, Some(1884), true)),
            ("midge -v -c a.toml -p 1884", serve(Some("a.toml"), Some(1884), true)),
            ("midge serve -p 0", serve(None, Some(0), false)),
        ] {
            assert_eq!(command(line).expect(line), expected);
        }
    }

    #[test]
    fn a_file_can_be_checked() {
        let file = PathBuf::from("a.toml");
        for (line, print, deep) in [
            ("midge check-config a.toml", false, false),
            ("midge check-config --print a.toml", true, false),
            ("midge check-config a.toml --deep", false, true),
        ] {
            let expected = Command::CheckConfig(CheckConfig { file: file.clone(), print, deep });
            assert_eq!(command(line).expect("good usage"), expected);
        }
    }

    #[test]
    fn a_mosquitto_conf_is_served_or_said_in_midges_words() {
        let conf = Some(PathBuf::from("m.conf"));
        for line in
            ["midge serve -v --mosquitto-conf m.conf -p 1884", "midge --mosquitto-conf m.conf -p 1884 -v"]
        {
            let expected =
                Serve { mosquitto_conf: conf.clone(), port: Some(1884), verbose: true, ..Serve::default() };
            assert_eq!(command(line).expect(line), Command::Serve(expected));
        }
        for (line, partial) in
            [("midge import-mosquitto m.conf", false), ("midge import-mosquitto --partial m.conf", true)]
        {
            let expected = Command::ImportMosquitto { file: PathBuf::from("m.conf"), partial };
            assert_eq!(command(line).expect(line), expected);
        }
        // The reader of the mosquitto.conf applies the port in this case.
        let mut config = Config::default();
        Serve { port: Some(1999), mosquitto_conf: conf, ..Serve::default() }.apply(&mut config);
        assert_eq!(config.listeners, Config::default().listeners);
    }

    #[test]
    fn a_database_of_mosquitto_goes_where_the_configuration_or_the_line_says() {
        let (database, into) = (PathBuf::from("m.db"), Some(PathBuf::from("state")));
        let (config, mosquitto_conf) = (Some(PathBuf::from("a.toml")), Some(PathBuf::from("m.conf")));
        let none = Serve::default();
        for (line, into, serve) in [
            ("midge import-mosquitto --database m.db", None, none.clone()),
            ("midge import-mosquitto --database m.db --into state", into.clone(), none.clone()),
            ("midge import-mosquitto --database m.db -c a.toml", None, Serve { config, ..none.clone() }),
            (
                "midge import-mosquitto --database m.db --mosquitto-conf m.conf --into state",
                into,
                Serve { mosquitto_conf, ..none },
            ),
        ] {
            let expected = ImportDatabase { database: database.clone(), into, serve };
            assert_eq!(command(line).expect(line), Command::ImportDatabase(expected));
        }
    }

    #[test]
    fn each_command_of_the_readme_is_good_usage() {
        let readme = include_str!("../README.md");
        let lines = readme.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| {
            let line = line.split(['#', '>']).next().unwrap_or_default();
            line.trim()
        });
        let commands: Vec<&str> = lines.filter(|line| line.starts_with("midge ")).collect();
        assert!(commands.iter().any(|line| line.contains("--database")), "{commands:?}");
        for line in commands {
            assert!(command(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_password_file_is_changed() {
        let Command::Passwd(arguments) = command("midge passwd -c -b users ada secret").expect("good usage")
        else {
            panic!("another command");
        };
        assert_eq!((arguments.user.as_str(), arguments.create, arguments.batch), ("ada", true, true));
    }

    #[test]
    fn help_and_version_end_well() {
        for (line, kind) in [
            ("midge --help", ErrorKind::DisplayHelp),
            ("midge serve --help", ErrorKind::DisplayHelp),
            ("midge --version", ErrorKind::DisplayVersion),
        ] {
            let error = command(line).expect_err(line);
            assert_eq!((error.kind(), error.exit_code()), (kind, 0));
        }
        let version = command("midge --version").expect_err("version").to_string();
        assert_eq!(version, format!("midge {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn bad_usage_ends_with_status_2() {
        for line in [
            "midge sevre",
            "midge --colour",
            "midge check-config",
            "midge check-config a b",
            "midge check-config a --deep --print",
            "midge -p 65536",
            "midge -p x",
            "midge --config",
            "midge -p 1 check-config a",
            "midge check-config -p 1 a",
            "midge a.toml",
            "midge -c a.toml --mosquitto-conf m.conf",
            "midge import-mosquitto",
            "midge import-mosquitto m.conf --database m.db",
            "midge import-mosquitto m.conf --into state",
            "midge import-mosquitto m.conf -c a.toml",
            "midge import-mosquitto m.conf --mosquitto-conf m.conf",
            "midge import-mosquitto --into state",
            "midge import-mosquitto --partial --database m.db",
            "midge import-mosquitto --database m.db -c a.toml --mosquitto-conf m.conf",
            "midge passwd",
        ] {
            assert_eq!(command(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_port_replaces_all_listeners_by_loopback() {
        let mut config = Config::default();
        config.listeners.push(Listener::default());
        Serve { port: Some(1999), ..Serve::default() }.apply(&mut config);
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:1999");
    }

    #[test]
    fn verbose_never_logs_less() {
        let verbose = Serve { verbose: true, ..Serve::default() };
        for (level, expected) in [
            (LogLevel::Error, LogLevel::Debug),
            (LogLevel::Info, LogLevel::Debug),
            (LogLevel::Trace, LogLevel::Trace),
        ] {
            let mut config = Config::default();
            config.log.level = level;
            verbose.apply(&mut config);
            assert_eq!(config.log.level, expected);
        }
    }
}
