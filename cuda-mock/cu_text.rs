//! A rough reading of `.cu` text: which kernels it holds, and the C++ file that registers them with the emulator.
//! It expands no macro, so a kernel is written out. Used by build.rs.

use std::path::Path;

/// A kernel as its text declares it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    /// The first argument of `__launch_bounds__`.
    pub(crate) threads_max: Option<String>,
}

/// Kernels in the order of the text, or what is odd about one.
pub(crate) fn kernels(text: &str) -> Result<Vec<Kernel>, String> {
    let code = without_comments(text);
    let mut found = Vec::new();
    for (at, keyword) in code.match_indices("__global__") {
        let mut rest = code[at + keyword.len()..].trim_start();
        let mut threads_max = None;
        loop {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            let after = after.trim_start();
            rest = match word {
                "void" => after,
                "__launch_bounds__" => {
                    let inside = parenthesised(after).ok_or("__launch_bounds__ without ( )")?;
                    threads_max = Some(first_argument(inside).trim().to_owned());
                    after[inside.len() + 2..].trim_start()
                }
                name if !name.is_empty() && after.starts_with('(') => {
                    found.push(Kernel { name: name.to_owned(), threads_max });
                    break;
                }
                _ => return Err(format!("after __global__ stands {word:?}, not void and a name")),
            };
        }
        if !code[..at].trim_end().ends_with("extern \"C\"") {
            let name = found.last().map_or("", |kernel| &kernel.name);
            return Err(format!("kernel {name} is not extern \"C\""));
        }
    }
    Ok(found)
}

/// A C++ file that holds the kernels of a `.cu` file in a namespace of its own and registers them.
pub(crate) fn registration(path: &Path, text: &str) -> Result<String, String> {
    let file = path.file_name().and_then(|name| name.to_str()).ok_or("a file without a name")?;
    let kernels = kernels(text).map_err(|what| format!("{}: {what}", path.display()))?;
    let space = format!("source_{}", file.replace(|c: char| !c.is_alphanumeric(), "_"));
    let mut entries = String::new();
    for Kernel { name, threads_max } in kernels {
        let threads = threads_max.unwrap_or_else(|| "1024".to_owned());
        entries += &format!("    emu::kernel(\"{name}\", {name}, {threads}),\n");
    }
    Ok(format!(
        "#include \"portable.cuh\"\n#include \"registry.hpp\"\nnamespace {space} {{\n#include \"{}\"\n\
         const bool registered = emu::add_file(\"{file}\", 0x{:016x}ull, {{\n{entries}}});\n}}\n",
        path.display(),
        hash(text),
    ))
}

/// FNV-1a of 64 bits, as in driver/blob.hpp.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        code += &rest[..start];
        let ending = if rest[start..].starts_with("//") { "\n" } else { "*/" };
        let end = rest[start..].find(ending).map_or(rest.len(), |end| start + end);
        rest = rest[end..].trim_start_matches("*/");
    }
    code + rest
}

/// What stands between the parentheses that `text` starts with.
fn parenthesised(text: &str) -> Option<&str> {
    let mut depth = 0usize;
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return text.get(1..at);
        }
    }
    None
}

fn first_argument(list: &str) -> &str {
    let mut depth = 0usize;
    let end = list.find(|character| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    });
    &list[..end.unwrap_or(list.len())]
}
