"""Writes a value, which is read as JSON, as TOML: what remarshal does in nixpkgs."""

import json
import re
import sys


def key(name):
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def scalar(value):
    if isinstance(value, list):
        return "[" + ", ".join(scalar(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key(k)} = {scalar(v)}" for k, v in value.items()) + " }"
    # Numbers, booleans and strings are written the same in both; a DEL is not.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def is_tables(value):
    return isinstance(value, list) and value and all(isinstance(item, dict) for item in value)


def table(path, value, out):
    for name, item in value.items():
        if not isinstance(item, dict) and not is_tables(item):
            out.append(f"{key(name)} = {scalar(item)}")
    for name, item in value.items():
        inner = path + [key(name)]
        if isinstance(item, dict):
            out.append("\n[" + ".".join(inner) + "]")
            table(inner, item, out)
        elif is_tables(item):
            for entry in item:
                out.append("\n[[" + ".".join(inner) + "]]")
                table(inner, entry, out)


lines = []
table([], json.load(sys.stdin), lines)
print("\n".join(lines).lstrip("\n"))
