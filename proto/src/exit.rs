//! Exit codes of both programs: one closed set, documented in README.md.

/// How a program ends, for scripts. `0` is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Something that fits no other code.
    Failure = 1,
    /// The command line or the job file is wrong, or the weights it names don't fit it.
    Usage = 2,
    /// The dataset is missing, damaged, or not the one the run needs.
    Data = 3,
    /// A worker was lost or gave up; the run stopped with its last checkpoint.
    RunStopped = 4,
    /// The state directory or a checkpoint can't be used.
    State = 5,
    /// An address can't be listened on or reached.
    Network = 6,
    /// The other side speaks another protocol version.
    Version = 7,
    /// The join token was refused.
    Token = 77,
    /// Interrupted from the keyboard; the run can be resumed.
    Interrupted = 130,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}
