#!/usr/bin/env python3
"""Writes NOTICE: the licences of everything that is linked into the binary.

    tests/notice.py [--check]

Cargo says which crates are linked, by Cargo.lock; their sources, which cargo has fetched, have the texts. Of several licences the first
of CHOICE is taken. C and C++ sources that crates bring have texts of their own. --check writes nothing, and fails where NOTICE is not what
would be written.
"""

import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NOTICE = os.path.join(ROOT, "NOTICE")
# What is released.
TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]
# Apache-2.0 first: its text is in LICENSE, once for all.
CHOICE = ["Apache-2.0", "MIT", "BSD-3-Clause", "BSD-2-Clause", "ISC", "Zlib", "Unicode-3.0", "BSL-1.0"]
# Sources of others inside a crate: the crate, what they are, their licence, and where its text is.
BROUGHT = [
    ("aws-lc-sys", "AWS-LC", "Apache-2.0 OR ISC and others", ["aws-lc/LICENSE"]),
    ("libmimalloc-sys", "mimalloc", "MIT", ["c_src/mimalloc/LICENSE", "c_src/mimalloc/v2/LICENSE", "c_src/mimalloc2/LICENSE"]),
    ("librocksdb-sys", "RocksDB, with parts of LevelDB", "Apache-2.0 and BSD-3-Clause", ["rocksdb/LICENSE.leveldb"]),
    ("lz4-sys", "LZ4", "BSD-2-Clause", ["liblz4/lib/LICENSE", "liblz4/LICENSE"]),
    ("utoipa-swagger-ui", "Swagger UI", "Apache-2.0", []),
    ("zstd-sys", "Zstandard", "BSD-3-Clause", ["zstd/LICENSE"]),
]
# What is in our own sources and was written by others: what it is, its licence, and the folder of its text.
VENDORED = [("uPlot", "MIT", "src/console/assets/vendor")]
TEXTS = re.compile(r"^(licen[cs]e|copying|unlicense|notice|copyright)", re.I)


def main():
    text = notice()
    if sys.argv[1:] == ["--check"]:
        with open(NOTICE) as file:
            if file.read() != text:
                sys.exit("NOTICE is not what is linked in: run make notice, and read what changed")
        print("notice     NOTICE has the licences of what is linked in")
        return
    with open(NOTICE, "w") as file:
        file.write(text)


def cargo(*words):
    command = ["cargo", *words, "--locked", "--manifest-path", os.path.join(ROOT, "Cargo.toml")]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(command)}: {run.stderr}")
    return run.stdout


def linked():
    """Names and versions of the crates that are linked in, ours left out."""
    found = set()
    for target in TARGETS:
        tree = cargo("tree", "-p", "zombi", "-e", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}", "--target", target)
        for line in tree.splitlines():
            name, version = line.split()[:2]
            if "(/" not in line:
                found.add((name, version.lstrip("v")))
    return found


def crates():
    """Of each crate that is linked in: its name, version, licence and folder."""
    wanted = linked()
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    found = [one for one in packages if (one["name"], one["version"]) in wanted]
    missing = wanted - {(one["name"], one["version"]) for one in found}
    if missing:
        sys.exit(f"cargo metadata lacks {sorted(missing)}")
    return sorted(((one["name"], one["version"], one["license"] or "", os.path.dirname(one["manifest_path"])) for one in found))


def chosen(expression):
    """Of each part of a licence that must be kept, the first of the choices; `None` for one that none of ours is in."""
    parts = []
    for part in re.split(r"\s+AND\s+", expression.replace("/", " OR ")):
        words = [word.strip("() ") for word in re.split(r"\s+OR\s+", part)]
        words = [word.split(" WITH ")[0] for word in words]
        parts.append(next((licence for licence in CHOICE if licence in words), None))
    return parts


def texts(folder):
    names = sorted(name for name in os.listdir(folder) if TEXTS.match(name) and os.path.isfile(os.path.join(folder, name)))
    return {name: read(os.path.join(folder, name)) for name in names}


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return "\n".join(line.rstrip() for line in file.read().strip().splitlines())


def is_apache(text):
    return "Apache License" in text[:400] and "TERMS AND CONDITIONS" in text


def kept(folder, licences):
    """The texts that go with a crate: those of licences other than Apache-2.0, and what it asks to be told on."""
    found = texts(folder)
    notices = [text for file, text in found.items() if file.lower().startswith("notice")]
    if set(licences) == {"Apache-2.0"}:
        return notices
    rest = [text for file, text in found.items() if not is_apache(text) and not file.lower().startswith(("notice", "unlicense"))]
    return notices + rest


def notice():
    out = ["Zombi", "", "Licensed under the Apache License, Version 2.0; see LICENSE.", "",
           "The binary has the following in it, each under its own licence. Where there is a choice, the first is named that Zombi",
           "takes. The text of the Apache License is in LICENSE; the other texts, and what some ask to be told on, are below.",
           "Written by tests/notice.py.", ""]
    bodies = {}
    for name, version, expression, folder in crates():
        licences = chosen(expression)
        if None in licences:
            sys.exit(f"{name} {version} is under {expression!r}, of which none is in CHOICE of tests/notice.py")
        out.append(f"  {name} {version}: {' AND '.join(dict.fromkeys(licences))}")
        for text in kept(folder, licences):
            bodies.setdefault(text, []).append(f"{name} {version}")
        for crate, what, licence, paths in BROUGHT:
            if crate == name:
                out.append(f"    with {what}: {licence}")
                there = [path for path in paths if os.path.exists(os.path.join(folder, path))]
                if paths and not there:
                    sys.exit(f"{name} {version} has none of {paths}")
                for path in there[:1]:
                    bodies.setdefault(read(os.path.join(folder, path)), []).append(f"{what}, in {name} {version}")
    for what, licence, folder in VENDORED:
        out.append(f"  {what}, in {folder}: {licence}")
        for text in texts(os.path.join(ROOT, folder)).values():
            bodies.setdefault(text, []).append(what)
    for text, names in sorted(bodies.items(), key=lambda item: item[1]):
        out += ["", "=" * 80, ", ".join(names), "", text]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
