//! What ptxas says with `-v` of each kernel, as NVRTC's log carries it.

/// The figures of one kernel on one architecture.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) name: String,
    pub(crate) registers: u32,
    /// Stored and loaded.
    pub(crate) spill_bytes: u32,
    pub(crate) stack_bytes: u32,
    /// Static.
    pub(crate) shared_bytes: u32,
}

/// Of each kernel that the log speaks of, by name.
pub(crate) fn usage(log: &str) -> Vec<Usage> {
    let mut found: Vec<Usage> = Vec::new();
    for line in log.lines() {
        if let Some((_, after)) = line.split_once("Compiling entry function '") {
            let name = after.split('\'').next().unwrap_or_default().to_owned();
            found.push(Usage { name, ..Usage::default() });
        }
        let Some(kernel) = found.last_mut() else { continue };
        if let Some(registers) = number_before(line, " registers") {
            kernel.registers = registers;
            kernel.shared_bytes = number_before(line, " bytes smem").unwrap_or_default();
        }
        if let Some(stack) = number_before(line, " bytes stack frame") {
            // Also of functions that were not inlined: the kernel calls them.
            kernel.stack_bytes += stack;
            kernel.spill_bytes += number_before(line, " bytes spill stores").unwrap_or_default();
            kernel.spill_bytes += number_before(line, " bytes spill loads").unwrap_or_default();
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// 24 of `Used 24 registers` and ` registers`.
fn number_before(line: &str, what: &str) -> Option<u32> {
    let before = &line[..line.find(what)?];
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
