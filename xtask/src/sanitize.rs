//! `cargo xtask sanitize`: the kernels' tests with the mock GPU built for AddressSanitizer and UndefinedBehaviorSanitizer,
//! then for ThreadSanitizer, which finds an access that nothing orders whatever the schedule. Bugs planted in `cuda-mock`
//! show that they would be found. Sanitizes the kernels and the mock, not the Rust code.

use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs what this machine can; false when something was found or a planted bug was not.
pub(crate) fn run(root: &Path, out: &mut dyn Write) -> Result<bool> {
    let mut is_sound = true;
    for sanitizer in Sanitizer::ALL {
        match Setup::find(sanitizer) {
            Some(setup) => is_sound &= check(root, &setup, out)?,
            None => writeln!(out, "skipped: {}", sanitizer.absence())?,
        }
    }
    Ok(is_sound)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sanitizer {
    Address,
    Thread,
}

impl Sanitizer {
    const ALL: [Self; 2] = [Self::Address, Self::Thread];

    /// As `cuda-mock/build.rs` takes it.
    fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Thread => "thread",
        }
    }

    /// clang's ThreadSanitizer makes emulated threads several times faster than g++'s.
    fn compilers(self) -> &'static [&'static str] {
        match self {
            Self::Address => &["c++", "g++"],
            Self::Thread => &["clang++-19", "clang++", "c++", "g++"],
        }
    }

    /// File names of the runtime: g++'s, clang's.
    fn runtimes(self) -> [&'static str; 2] {
        match self {
            Self::Address => ["libasan.so", "libclang_rt.asan-x86_64.so"],
            Self::Thread => ["libtsan.so", "libclang_rt.tsan-x86_64.so"],
        }
    }

    /// Stacks of emulated threads are not the host's, and Rust's own code is not instrumented.
    fn options(self) -> &'static str {
        match self {
            Self::Address => "ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0",
            Self::Thread => "TSAN_OPTIONS=ignore_noninstrumented_modules=1",
        }
    }

    /// Kernels of `cuda-mock/selftest/planted.cu` whose bug it must find, and no schedule need.
    fn planted(self) -> &'static [&'static str] {
        match self {
            Self::Address => {
                &["planted_shared_overflow", "planted_unguarded_read", "planted_unguarded_write"]
            }
            Self::Thread => &[
                "planted_block_race",
                "planted_no_fence",
                "planted_no_barrier",
                "planted_stage_reuse",
                "planted_warp_race",
            ],
        }
    }

    fn absence(self) -> String {
        let compilers = self.compilers().join(", ");
        format!(
            "the {} sanitizer's runtime is with none of {compilers}; apt-get install g++",
            self.name()
        )
    }
}

/// A sanitizer with a compiler that has it.
struct Setup {
    sanitizer: Sanitizer,
    compiler: &'static str,
    runtime: PathBuf,
}

impl Setup {
    fn find(sanitizer: Sanitizer) -> Option<Self> {
        sanitizer.compilers().iter().find_map(|compiler| {
            let runtime = sanitizer.runtimes().iter().find_map(|name| runtime(compiler, name))?;
            Some(Self { sanitizer, compiler, runtime })
        })
    }

    /// `cargo test` whose programs, and nothing else, start with the sanitizer's runtime.
    fn cargo_test(&self, root: &Path, arguments: &[&str]) -> Command {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let (preload, options) = (self.runtime.display(), self.sanitizer.options());
        let mut command = Command::new(cargo);
        command
            .arg("test")
            .args(arguments)
            .current_dir(root)
            .env("CUDA_MOCK_SANITIZE", self.sanitizer.name())
            .env("CXX", self.compiler)
            .env(RUNNER, format!("env LD_PRELOAD={preload} {options}"));
        command
    }
}

/// The runtime as a shared library, where the compiler says that it is; it repeats the bare name when it has none.
fn runtime(compiler: &str, name: &str) -> Option<PathBuf> {
    let run = Command::new(compiler).arg(format!("-print-file-name={name}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8_lossy(&run.stdout).trim());
    (path.is_absolute() && path.exists()).then_some(path)
}

fn check(root: &Path, setup: &Setup, out: &mut dyn Write) -> Result<bool> {
    let name = setup.sanitizer.name();
    writeln!(out, "{name}: {} with {}", setup.compiler, setup.runtime.display())?;
    let mut is_sound = true;
    for arguments in SUITES {
        let run = setup.cargo_test(root, arguments).output().context("run cargo test")?;
        let passed = run.status.success() && !is_report(&text(&run));
        writeln!(
            out,
            "{name}: {}: {}",
            arguments.join(" "),
            if passed { "sound" } else { "FAILED" }
        )?;
        if !passed {
            writeln!(out, "{}", text(&run))?;
        }
        is_sound &= passed;
    }
    for kernel in setup.sanitizer.planted() {
        let mut command = setup.cargo_test(root, &["-p", "cuda-mock", PLANTED_TEST]);
        let run = command.env("CUDA_MOCK_PLANTED", kernel).output().context("run cargo test")?;
        let found =
            !run.status.success() && is_report(&text(&run)) && text(&run).contains("planted.cu:");
        writeln!(out, "{name}: {kernel}: {}", if found { "found" } else { "NOT FOUND" })?;
        if !found {
            writeln!(out, "{}", text(&run))?;
        }
        is_sound &= found;
    }
    Ok(is_sound)
}

fn text(run: &Output) -> String {
    String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr)
}

fn is_report(text: &str) -> bool {
    REPORTS.iter().any(|report| text.contains(report))
}

/// A sanitizer's first words, the last one UndefinedBehaviorSanitizer's.
const REPORTS: [&str; 3] =
    ["ERROR: AddressSanitizer", "WARNING: ThreadSanitizer", ": runtime error: "];
const SUITES: [&[&str]; 2] = [&["-p", "cuda-mock"], &["-p", "kernels", "cuda"]];
const PLANTED_TEST: &str = "the_planted_bug_that_the_environment_names";
const RUNNER: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER";
