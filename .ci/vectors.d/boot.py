"""Boot records: store/image/boot/FORMAT.md, "The record"."""

import hashlib
import re

from cbor import must

NUMBER = "0|[1-9][0-9]*"
RELEASE = re.compile("[a-z0-9.-]{1,64}-(%s)-(%s)-[a-z2-7]{8}" % (NUMBER, NUMBER))
LIKE_RELEASE = re.compile(".*-[0-9]+-[0-9]+-[^-]+")
NAME = re.compile("[a-z0-9][a-z0-9._-]{0,63}")
ORDER = ("trial", "tries", "booted", "boot-id", "failed", "floor-of")
FIRST = ("satchel", "generation", "live", "previous", "sha256")


def record(data):
    must(len(data) <= 4096, "too long")
    must(data.endswith(b"\n"), "a line without an end")
    must(data.isascii(), "not ASCII")
    lines = data.decode("ascii").split("\n")[:-1]
    must(all(re.fullmatch("[ -~]+", line) for line in lines), "a line that is empty or cannot be printed")
    must(len(lines) >= 5 and lines[0] == "satchel boot 1", "not a boot record")
    number(value(lines[1], "generation"), 1, 1 << 63)
    for line, key in (lines[2], "live"), (lines[3], "previous"):
        if value(line, key) != "-":
            deployment(value(line, key))
    optional(lines[4:-1])
    before = data[:-len(lines[-1]) - 1]
    must(value(lines[-1], "sha256") == hashlib.sha256(before).hexdigest(), "wrong checksum")


def optional(lines):
    """What is between the first lines and the checksum: known keys in their order, then others."""
    seen = {key: [] for key in ORDER}
    at = 0
    for line in lines:
        match = re.fullmatch("([a-z-]+) (.+)", line)
        must(match and match[1] not in FIRST, "not a line of a record")
        key = match[1]
        place = ORDER.index(key) if key in seen else len(ORDER)
        must(place >= at, "a line in another order")
        at = place
        seen.get(key, []).append(match[2])
    must(all(len(seen[key]) <= 1 for key in ORDER[:4]), "a line twice")
    must(len(seen["trial"]) == len(seen["tries"]), "trial and tries do not come together")
    must(len(seen["booted"]) >= len(seen["boot-id"]), "boot-id without booted")
    for id_ in seen["trial"] + seen["booted"]:
        deployment(id_)
    for tries in seen["tries"]:
        number(tries, 0, 10)
    must(all(re.fullmatch("[0-9a-f-]{36}", id_) for id_ in seen["boot-id"]), "not a boot-id")
    for line in seen["failed"]:
        id_, space, why = line.partition(" ")
        deployment(id_)
        must(not space or 1 <= len(why) <= 60 and why == why.strip(" "), "not a reason")
    distinct([line.partition(" ")[0] for line in seen["failed"]], 8)
    for line in seen["floor-of"]:
        fields = line.split(" ")
        must(len(fields) == 3 and re.fullmatch("[a-z0-9.-]{1,64}", fields[0]), "not a floor")
        number(fields[1], 0, 1 << 64)
        number(fields[2], 0, 1 << 64)
    products = [line.partition(" ")[0] for line in seen["floor-of"]]
    distinct(products, 16)
    must(products == sorted(products), "floors are not sorted")


def distinct(names, most):
    must(len(names) <= most and len(set(names)) == len(names), "too many, or one twice")


def value(line, key):
    must(line.startswith(key + " "), "another line in the place of " + key)
    return line[len(key) + 1:]


def number(text, least, end):
    must(re.fullmatch(NUMBER, text) and least <= int(text) < end, "not a number that may be here")


def deployment(id_):
    match = RELEASE.fullmatch(id_)
    if match:
        must(all(int(n) < 1 << 64 for n in match.groups()), "not an id")
    else:
        must(NAME.fullmatch(id_) and not LIKE_RELEASE.fullmatch(id_) and not id_.endswith((".toml", ".tmp")), "not an id")
