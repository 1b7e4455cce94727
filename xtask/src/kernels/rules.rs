//! What the text of a kernel file, and what ptxas says of it, must hold. Each rule yields lines that say what to do.

use anyhow::{Context, Result};
use std::collections::BTreeMap;

use super::report::Usage;
use super::{Compiled, LIMITS, Report, Source};

/// Of a `.cu` or `.cuh` text.
pub(crate) fn of_source(source: &Source, headers: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut report = |line: usize, what: String| {
        wrong.push(format!("{}:{}: {what}", source.name, line + 1));
    };
    for (number, line) in source.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if let Some(header) = code.trim_start().strip_prefix("#include") {
            let name = header.trim().trim_matches(['"', '<', '>']);
            let is_ours = headers.iter().any(|other| other.name == name);
            let is_twin = PTX_FILES.contains(&source.name.as_str()) && TWINS.contains(&name);
            if !is_ours && !is_twin {
                report(
                    number,
                    format!("includes {name}: only our own .cuh, so that a lone NVRTC is enough"),
                );
            }
        }
        if code.contains("asm")
            && has_word(code, "asm")
            && !PTX_FILES.contains(&source.name.as_str())
        {
            report(
                number,
                "inline PTX belongs into portable.cuh, with its twin in cuda-mock".to_owned(),
            );
        }
    }
    wrong
}

/// Of a file on an architecture.
pub(crate) fn of_compiled(compiled: &Compiled, limits: &Limits) -> Vec<String> {
    let place = format!("{} on {}", compiled.file, compiled.arch.name());
    let report = match &compiled.outcome {
        Ok(report) => report,
        Err(log) => return vec![format!("{place} doesn't compile:\n{}", log.trim_end())],
    };
    let mut wrong = of_report(&place, report);
    for kernel in &report.kernels {
        let limit = limits.of(&compiled.file, &kernel.name);
        wrong.extend(of_kernel(&format!("{place}, {}", kernel.name), kernel, limit));
    }
    wrong
}

fn of_report(place: &str, report: &Report) -> Vec<String> {
    let losses = report.log.lines().filter(|line| line.contains("(C75"));
    let mut wrong: Vec<String> = losses.map(|line| format!("{place}: {}", line.trim())).collect();
    // A reduction whose result depends on the order in which blocks come by.
    let atomics = report.ptx.lines().map(str::trim_start).filter(|line| is_float_atomic(line));
    wrong.extend(atomics.map(|line| {
        format!("{place}: {line} adds in anybody's order; sum in a fixed one instead")
    }));
    wrong
}

fn is_float_atomic(instruction: &str) -> bool {
    // Behind a predicate, if there is one.
    let opcode = instruction.split_whitespace().find(|part| part.contains('.')).unwrap_or_default();
    let is_atomic = opcode.starts_with("atom.") || opcode.starts_with("red.");
    is_atomic && opcode.split('.').any(|part| FLOATS.contains(&part))
}

fn of_kernel(place: &str, kernel: &Usage, limit: Option<u32>) -> Vec<String> {
    let mut wrong = Vec::new();
    if kernel.spill_bytes > 0 {
        wrong.push(format!("{place}: spills {} bytes", kernel.spill_bytes));
    }
    if kernel.stack_bytes > 0 {
        wrong.push(format!(
            "{place}: a stack frame of {} bytes: is an array indexed at run time?",
            kernel.stack_bytes
        ));
    }
    if kernel.shared_bytes > STATIC_SHARED_MAX {
        wrong.push(format!(
            "{place}: {} bytes of static shared memory, at most {STATIC_SHARED_MAX}: make it dynamic",
            kernel.shared_bytes
        ));
    }
    if let Some(limit) = limit.filter(|&limit| kernel.registers > limit) {
        wrong.push(format!("{place}: {} registers, {LIMITS} allows {limit}", kernel.registers));
    }
    wrong
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|part| part == word)
}

/// Registers by file and kernel.
#[derive(Debug)]
pub(crate) struct Limits(BTreeMap<String, BTreeMap<String, u32>>);

impl Limits {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse()?;
        let mut limits = BTreeMap::new();
        for (file, kernels) in table {
            let kernels = kernels.as_table().with_context(|| format!("{file} is no table"))?;
            let mut registers = BTreeMap::new();
            for (kernel, value) in kernels {
                let limit = value.as_integer().and_then(|limit| u32::try_from(limit).ok());
                let limit = limit.filter(|limit| (1..=255).contains(limit));
                let limit = limit.with_context(|| format!("{kernel}: registers are 1 to 255"))?;
                registers.insert(kernel.clone(), limit);
            }
            limits.insert(file, registers);
        }
        Ok(Self(limits))
    }

    fn of(&self, file: &str, kernel: &str) -> Option<u32> {
        self.0.get(file)?.get(kernel).copied()
    }

    /// Kernels without an entry, with the line to add: what was found, rounded up to the next multiple of eight, in
    /// which a GPU hands registers out.
    pub(crate) fn missing(&self, compiled: &[Compiled]) -> Vec<String> {
        let mut most: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for one in compiled {
            let kernels = one.outcome.iter().flat_map(|report| &report.kernels);
            for kernel in kernels.filter(|kernel| self.of(&one.file, &kernel.name).is_none()) {
                let entry = most.entry((&one.file, &kernel.name)).or_default();
                *entry = kernel.registers.max(*entry);
            }
        }
        let line = |((file, kernel), registers): (_, u32)| {
            let limit = registers.next_multiple_of(8).min(255);
            format!("{LIMITS}: no limit; add under [\"{file}\"]: {kernel} = {limit}")
        };
        most.into_iter().map(line).collect()
    }

    /// Entries that no file has.
    pub(crate) fn stale(&self, files: &[Source]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (file, kernels) in &self.0 {
            let source = files.iter().find(|source| source.name == *file);
            for kernel in kernels.keys() {
                if !source.is_some_and(|source| has_word(&source.text, kernel)) {
                    wrong.push(format!("{LIMITS}: {kernel} is not in {file}: remove the line"));
                }
            }
        }
        wrong
    }
}

const STATIC_SHARED_MAX: u32 = 48 * 1024;
const PTX_FILES: [&str; 2] = ["portable.cuh", "hopper.cuh"];
/// What the headers include for a host compiler instead of PTX.
const TWINS: [&str; 2] = ["emulator.hpp", "hopper.hpp"];
const FLOATS: [&str; 6] = ["f16", "f16x2", "bf16", "bf16x2", "f32", "f64"];
