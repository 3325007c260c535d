//! A pod's memory: a group of processes that may have so much of it and no more.

use std::path::{Path, PathBuf};

/// A group of processes whose memory is bounded; gone when dropped.
pub(crate) struct Group {
    directory: PathBuf,
    is_v1: bool,
}

impl Group {
    /// Makes one; needs root, and a system that has such groups.
    pub(crate) fn make(name: &str, bytes: u64) -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        let is_v1 = root.join("memory").is_dir();
        let parent = if is_v1 { root.join("memory") } else { root.to_owned() };
        let group = Self { directory: parent.join(format!("zombi-{name}-{}", std::process::id())), is_v1 };
        std::fs::create_dir(&group.directory)
            .map_err(|error| format!("{}: {error}", group.directory.display()))?;
        let limit = if is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        std::fs::write(group.directory.join(limit), bytes.to_string())
            .map_err(|error| format!("{limit}: {error}"))?;
        Ok(group)
    }

    /// What puts a command into it.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let join = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.directory.display());
        ["sh", "-c", &join, "sh"].map(str::to_owned).to_vec()
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.directory.join(file)).unwrap_or_default()
    }

    /// The most that it has taken, page cache included.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let text = self.read(if self.is_v1 { "memory.max_usage_in_bytes" } else { "memory.peak" });
        text.trim().parse().unwrap_or(0)
    }

    /// How often a process was killed for its memory.
    pub(crate) fn kills(&self) -> u64 {
        let text = self.read(if self.is_v1 { "memory.oom_control" } else { "memory.events" });
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(std::fs::remove_dir(&self.directory));
    }
}

/// What the image sets for the allocators.
pub(crate) fn environment() -> Vec<(String, String)> {
    [("MALLOC_ARENA_MAX", "1"), ("MIMALLOC_PURGE_DELAY", "100")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}
