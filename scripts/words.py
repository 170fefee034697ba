#!/usr/bin/env python3
"""Counts type names that stand for several types, and English without a subject.

A type's name is unique in src/, or a reader has to ask which one is meant; CONTRIBUTING.md has the rule. Tests are
left out: files under a `#[cfg(test)] mod`, and `mod tests` in a file.

    scripts/words.py          the two figures, and what is over them; exit 1 where one is
    scripts/words.py --all    with every place
"""

import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MOST_SHARED = 5.0  # percent of all types
MOST_LINES = 20

TYPE = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:struct|enum|trait|union|type)\s+([A-Z]\w*)")
TEST_MODULE = re.compile(r"#\[cfg\((?:all\()?(?:test|doctest)\b[^\n]*\]\s*\n(?:\s*#\[[^\n]*\n)*\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*(;|\{)")
VAGUE = re.compile(r"\b(?:somebody|nobody|whoever|everybody|those who)\b", re.IGNORECASE)


def test_files(sources):
    """Files that only tests compile, with all below them."""
    left_out = set()
    for path in sources:
        for name, end in TEST_MODULE.findall(path.read_text()):
            if end != ";":
                continue
            home = path.parent if path.name in ("lib.rs", "main.rs", "mod.rs") else path.with_suffix("")
            left_out |= {home / f"{name}.rs", *(home / name).rglob("*.rs")}
    return left_out


def without_tests(text):
    """The source before its first test module; tests stand last."""
    found = re.search(r"#\[cfg\(test\)\]\s*\n(?:\s*#\[[^\n]*\n)*\s*mod \w+ \{", text)
    return text[: found.start()] if found else text


def types():
    sources = sorted((ROOT / "src").rglob("*.rs"))
    left_out = test_files(sources)
    defined = collections.defaultdict(list)
    for path in sources:
        if path in left_out:
            continue
        inside_impl = 0  # associated types are no names of their own
        for number, line in enumerate(without_tests(path.read_text()).splitlines(), 1):
            if re.match(r"^(?:unsafe )?(?:impl|pub trait|trait|pub\(\w+\) trait)\b", line) and not line.rstrip().endswith("}"):
                inside_impl = number
            elif line.startswith("}"):
                inside_impl = 0
            found = TYPE.match(line)
            if found and not (inside_impl and line.startswith(" ") and re.match(r"\s*type\b", line)):
                defined[found.group(1)].append(f"{path.relative_to(ROOT)}:{number}")
    return defined


def vague_lines():
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*")]
    for folder in ("src", "tests", "benches", "examples"):
        paths += (ROOT / folder).rglob("*.rs")
    paths += [*ROOT.glob("scripts/*.sh"), *ROOT.glob("tests/*.sh"), *ROOT.glob("tests/**/*.c"), ROOT / "Makefile"]
    for path in sorted(path for path in paths if path.is_file()):
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if VAGUE.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def main():
    everything = "--all" in sys.argv[1:]
    defined = types()
    shared = {name: places for name, places in defined.items() if len(places) > 1}
    total, under = sum(map(len, defined.values())), sum(map(len, shared.values()))
    percent = 100 * under / total
    lines = list(vague_lines())
    print(f"{total} types; {len(shared)} names stand for {under} of them ({percent:.1f} %; at most {MOST_SHARED:.0f} %)")
    if everything or percent > MOST_SHARED:
        for name, places in sorted(shared.items()):
            print(f"  {name}: {', '.join(places)}")
    print(f"{len(lines)} lines with somebody, nobody, whoever, everybody or those who (at most {MOST_LINES})")
    if everything or len(lines) > MOST_LINES:
        for line in lines:
            print(f"  {line}")
    return int(percent > MOST_SHARED or len(lines) > MOST_LINES)


if __name__ == "__main__":
    sys.exit(main())
