//! `cargo xtask kernels`: compiles every CUDA kernel for every architecture with NVRTC, without a GPU, and holds what ptxas
//! says of each against the table of limits. Runs nothing: that the kernels are right, the tests on `cuda-mock` show.
//!
//! * `nvrtc`: finding and calling the library.
//! * `report`: reading ptxas's words.
//! * `rules`: what a source and a report must hold.

mod nvrtc;
mod report;
mod rules;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use nvrtc::{Found, Nvrtc};
use report::Usage;
use rules::Limits;

/// A text with its name, as NVRTC gets it.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Without a folder: `conv.cu`.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// What came of one file on one architecture.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) file: String,
    pub(crate) arch: Arch,
    pub(crate) time: Duration,
    /// Or the compiler's log.
    pub(crate) outcome: Result<Report, String>,
}

/// What the compiler says of a file that compiles.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) log: String,
    pub(crate) ptx: String,
    pub(crate) kernels: Vec<Usage>,
}

/// What kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    Sm80,
    Sm89,
    Sm90a,
    Sm100a,
}

impl Arch {
    const ALL: [Self; 4] = [Self::Sm80, Self::Sm89, Self::Sm90a, Self::Sm100a];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
            Self::Sm89 => "sm_89",
            Self::Sm90a => "sm_90a",
            Self::Sm100a => "sm_100a",
        }
    }

    /// As `nvrtcGetSupportedArchs` lists it.
    fn number(self) -> i32 {
        match self {
            Self::Sm80 => 80,
            Self::Sm89 => 89,
            Self::Sm90a => 90,
            Self::Sm100a => 100,
        }
    }

    /// A file with Hopper's own instructions is compiled for nothing else.
    fn takes(self, source: &Source) -> bool {
        self == Self::Sm90a || !source.text.contains("#include \"hopper.cuh\"")
    }
}

/// Compiles, prints the table and what is wrong. False when something is; true also when there is no NVRTC.
pub(crate) fn run(root: &Path, out: &mut dyn Write) -> Result<bool> {
    let headers = sources(&root.join(KERNELS), "cuh")?;
    let mut files = sources(&root.join(KERNELS), "cu")?;
    files.extend(sources(&root.join(SELFTEST), "cu")?.into_iter().filter(is_conformance));
    let limits = Limits::parse(&read(&root.join(LIMITS))?).context(LIMITS)?;
    let mut wrong: Vec<String> = files
        .iter()
        .chain(&headers)
        .flat_map(|source| rules::of_source(source, &headers))
        .chain(limits.stale(&files))
        .collect();
    let mut looked_at = "kernels";
    match nvrtc::find() {
        Found::Library(library) => {
            let compiled = compile_all(&library, &files, &headers);
            print_table(&compiled, out)?;
            wrong.extend(compiled.iter().flat_map(|one| rules::of_compiled(one, &limits)));
            wrong.extend(limits.missing(&compiled));
        }
        Found::Nothing(tried) => {
            writeln!(out, "skipped: {tried}")?;
            looked_at = "kernels' texts";
        }
    }
    for line in &wrong {
        writeln!(out, "{line}")?;
    }
    match wrong.len() {
        0 => writeln!(out, "{looked_at}: nothing to fix")?,
        count => writeln!(out, "{looked_at}: {count} to fix")?,
    }
    Ok(wrong.is_empty())
}

/// The kernels that try the wrappers of `portable.cuh` are the only ones of the mock that a GPU may run.
fn is_conformance(source: &Source) -> bool {
    source.name == "conformance.cu"
}

/// Files of that ending, by name.
fn sources(folder: &Path, ending: &str) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let listing =
        std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in listing {
        let path = entry?.path();
        if path.extension().is_some_and(|other| other == ending) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.push(Source { name, text: read(&path)? });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// The architectures of a file at the same time, file by file.
fn compile_all(library: &Nvrtc, files: &[Source], headers: &[Source]) -> Vec<Compiled> {
    let mut all = Vec::new();
    for source in files {
        let archs = Arch::ALL.into_iter().filter(|arch| arch.takes(source));
        let archs: Vec<Arch> = archs.filter(|arch| library.supports(arch.number())).collect();
        std::thread::scope(|scope| {
            let started: Vec<_> = archs
                .into_iter()
                .map(|arch| scope.spawn(move || compile(library, source, headers, arch)))
                .collect();
            all.extend(started.into_iter().map(|thread| thread.join().expect("no panic in NVRTC")));
        });
    }
    all
}

fn compile(library: &Nvrtc, source: &Source, headers: &[Source], arch: Arch) -> Compiled {
    let start = Instant::now();
    let outcome = library.compile(source, headers, arch.name()).map(|output| Report {
        kernels: report::usage(&output.log),
        log: output.log,
        ptx: output.ptx,
    });
    Compiled { file: source.name.clone(), arch, time: start.elapsed(), outcome }
}

fn print_table(compiled: &[Compiled], out: &mut dyn Write) -> Result<()> {
    writeln!(
        out,
        "{:<24}{:<36}{:<9}{:>9}{:>7}{:>7}{:>8}{:>7}",
        "file", "kernel", "arch", "registers", "spills", "stack", "shared", "ms"
    )?;
    for one in compiled {
        let Ok(report) = &one.outcome else { continue };
        for kernel in &report.kernels {
            writeln!(
                out,
                "{:<24}{:<36}{:<9}{:>9}{:>7}{:>7}{:>8}{:>7}",
                one.file,
                kernel.name,
                one.arch.name(),
                kernel.registers,
                kernel.spill_bytes,
                kernel.stack_bytes,
                kernel.shared_bytes,
                one.time.as_millis(),
            )?;
        }
    }
    Ok(())
}

const KERNELS: &str = "kernels/cuda";
const SELFTEST: &str = "cuda-mock/selftest";
pub(crate) const LIMITS: &str = "kernels/cuda/limits.toml";
