//! Refuses to start on a processor that lacks the instructions which the program was built for, as it would
//! end without a word at the first of them.

use std::fs;

/// The instructions that `.cargo/config.toml` asks for, as the kernel names them.
#[cfg(target_arch = "x86_64")]
const NEEDED: [&str; 6] = ["cx16", "pclmulqdq", "popcnt", "sse4_1", "sse4_2", "ssse3"];
#[cfg(target_arch = "aarch64")]
const NEEDED: [&str; 2] = ["crc32", "aes"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const NEEDED: [&str; 0] = [];

/// Checks the processor by what the kernel says of it; where it says nothing, nothing is refused.
///
/// # Errors
/// Names what is missing.
pub(super) fn check() -> Result<(), String> {
    let Ok(described) = fs::read_to_string("/proc/cpuinfo") else { return Ok(()) };
    let missing = missing(&described, &NEEDED);
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "this processor has no {}: Zombi is built for x86-64-v2 with pclmulqdq, or for aarch64 with crc and \
         aes. Run it on a newer one, or build it for this one: see .cargo/config.toml",
        missing.join(", ")
    ))
}

/// Those of `needed` that the description does not list.
fn missing<'a>(described: &str, needed: &[&'a str]) -> Vec<&'a str> {
    let line = described.lines().find_map(|line| {
        let (name, flags) = line.split_once(':')?;
        matches!(name.trim(), "flags" | "Features").then_some(flags)
    });
    let Some(flags) = line else { return Vec::new() };
    let lacks = |flag: &&&str| !flags.split_whitespace().any(|known| known == **flag);
    needed.iter().filter(lacks).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let described = "processor\t: 0\nflags\t\t: fpu sse4_1 ssse3 popcnt cx16 sse4_2x\nbugs\t:\n";
        assert_eq!(missing(described, &["ssse3", "sse4_2", "pclmulqdq"]), ["sse4_2", "pclmulqdq"]);
        assert!(missing("model name: none\n", &["sse4_2"]).is_empty());
        assert_eq!(check(), Ok(()));
    }
}
