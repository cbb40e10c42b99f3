"""Boot records: store/image/FORMAT.md, "The record"."""

import hashlib
import re

from cbor import must

NUMBER = "0|[1-9][0-9]*"
ID = re.compile("[a-z0-9.-]{1,64}-(%s)-(%s)-[a-z2-7]{8}" % (NUMBER, NUMBER))


def record(data):
    must(len(data) <= 4096, "too long")
    must(data.endswith(b"\n"), "a line without an end")
    must(data.isascii(), "not ASCII")
    lines = data.decode("ascii").split("\n")[:-1]
    must(all(re.fullmatch("[ -~]+", line) for line in lines), "a line that is empty or cannot be printed")
    must(len(lines) >= 5 and lines[0] == "satchel boot 1", "not a boot record")
    generation = value(lines[1], "generation")
    must(re.fullmatch(NUMBER, generation) and 1 <= int(generation) < 1 << 63, "not a generation")
    deployment(value(lines[2], "live"))
    deployment(value(lines[3], "previous"))
    for line in lines[4:-1]:
        match = re.fullmatch("([a-z-]+) (.+)", line)
        must(match and match[1] not in ("satchel", "generation", "live", "previous", "sha256"), "not a line of a record")
    before = data[:-len(lines[-1]) - 1]
    must(value(lines[-1], "sha256") == hashlib.sha256(before).hexdigest(), "wrong checksum")


def value(line, key):
    must(line.startswith(key + " "), "another line in the place of " + key)
    return line[len(key) + 1:]


def deployment(id_):
    match = ID.fullmatch(id_)
    must(id_ == "-" or match and all(int(n) < 1 << 64 for n in match.groups()), "not an id")
