//! Processes that must not outlive the one that started them: the workers of `coordinator train`, and the coordinator under
//! `--chaos`.

use std::io;

/// From now on the kernel kills this process when the thread that started it ends, be it by SIGKILL: a stopped process, too,
/// and one that hangs. Start children from a thread that lives as long as their parent does, such as the main one. `parent` is
/// the process that started this one. An error, also, when that is gone already. Does nothing where there is no Linux.
pub fn die_with(parent: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before the kernel was told.
        if getppid() != Pid::from_raw(parent.cast_signed()) {
            let problem = format!("process {parent}, which started this one, has ended");
            return Err(io::Error::other(problem));
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
    Ok(())
}

/// The option of both programs that `die_with` is called for, with this process as the parent.
pub fn die_with_this_process() -> [String; 2] {
    ["--die-with-parent".to_owned(), std::process::id().to_string()]
}
