"""Checks the dependencies by deny.toml where cargo-deny is not at hand: every licence is allowed, every crate comes
from crates.io, none is banned, and no crate of ours asks for "any version". Reads Cargo.lock through cargo metadata.
"""

import json
import re
import subprocess
import sys
import tomllib

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def is_allowed(expression, allowed):
    """Whether an SPDX expression can be met with the allowed licences: OR needs one side, AND both."""
    tokens = re.findall(r"\(|\)|[^\s()/]+|/", expression)
    at = 0

    def any_of():
        nonlocal at
        met = all_of()
        # Old crates write a slash for OR.
        while at < len(tokens) and tokens[at] in ("OR", "/"):
            at += 1
            other = all_of()
            met = met or other
        return met

    def all_of():
        nonlocal at
        met = one()
        while at < len(tokens) and tokens[at] == "AND":
            at += 1
            other = one()
            met = met and other
        return met

    def one():
        nonlocal at
        token = tokens[at]
        at += 1
        if token == "(":
            met = any_of()
            at += 1
            return met
        if at < len(tokens) and tokens[at] == "WITH":
            token = f"{token} WITH {tokens[at + 1]}"
            at += 2
        return token in allowed

    return any_of()


def main():
    for expression, met in [("MIT", True), ("GPL-3.0", False), ("GPL-3.0 OR MIT", True), ("MIT AND GPL-3.0", False)]:
        assert is_allowed(expression, {"MIT"}) == met, expression
    assert is_allowed("(MIT/X) AND (Y OR Z WITH E)", {"MIT", "Z WITH E"})

    with open("deny.toml", "rb") as file:
        deny = tomllib.load(file)
    allowed = set(deny["licenses"]["allow"])
    exceptions = {entry["crate"]: allowed | set(entry["allow"]) for entry in deny["licenses"].get("exceptions", [])}
    banned = {entry["crate"] for entry in deny["bans"].get("deny", [])}
    command = ["cargo", "metadata", "--locked", "--all-features", "--format-version", "1"]
    packages = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["packages"]

    wrong = []
    for package in packages:
        name, source = f"{package['name']} {package['version']}", package["source"]
        if source not in (None, CRATES_IO):
            wrong.append(f"{name} comes from {source}")
        if not is_allowed(package["license"] or "none", exceptions.get(package["name"], allowed)):
            wrong.append(f"{name} has the licence {package['license']}")
        if package["name"] in banned:
            wrong.append(f"{name} is banned")
        if source is None:
            anything = [dependency["name"] for dependency in package["dependencies"] if dependency["req"] == "*"]
            wrong += [f"{name} takes any version of {dependency}" for dependency in anything]
    print(f"{len(packages)} crates checked, {len(wrong)} of them wrong")
    if wrong:
        sys.exit("\n".join(wrong))


main()
