"""Manifests: store/manifest/FORMAT.md, "Format" and "Verification rules"."""

import re

import codepoints
from cbor import array, decode, mapping, must, number, string, text
from content import KIB, LARGEST, LEAST, MOST, RAW, cid_binary, sha256

DIRECTORY, FILE, LINK = 0, 1, 2
EMPTY = RAW + sha256(b"")
HIDDEN = codepoints.LAST_TWO + codepoints.ranges("""0-1F 7F-9F AD 61C 200E-200F 2028-202E 2060-206F FDD0-FDEF FEFF FFF0-FFFB
    1BCA0-1BCA3 1D173-1D17A E0000-E00FF E01F0-E0FFF""")  # rule 2


def manifest(data):
    must(len(data) <= 256 * KIB * KIB, "a manifest that is too long")
    f = mapping(decode(data, 3, 1000000))
    must(f.keys() - {0} == set(range(1, 8)), "not exactly the keys 1 to 7, and 0 at most")
    if 0 in f:
        terms(mapping(f[0]))
    must(number(f[1]) == 1, "not version 1")
    must(re.fullmatch("[a-z0-9.-]{1,64}", text(f[2])), "not a product")
    number(f[3])
    number(f[4])
    clean(f[5], 0, 64)
    clean(f[6], 0, 4096, "\n\t")
    entries(array(f[7]))
    return f


CONFIG, STATE, PATCHES, HELPER = 1, 2, 3, 4


def terms(t):
    """Rules 7 and 8."""
    must(t and t.keys() <= {CONFIG, STATE, PATCHES, HELPER}, "terms that say nothing, or what is not known")
    config, state = (paths(t[key]) if key in t else [] for key in (CONFIG, STATE))
    must(not any(within(b"state", s) for s in state), "state where state is found")
    must(not any(within(c, s) or within(s, c) for c in config for s in state), "a path that is config and state")
    if PATCHES in t:
        patches = [text(id_) for id_ in array(t[PATCHES], 1, 4096)]
        must(all(re.fullmatch("[0-9]{6}-[0-9]{2}", id_) for id_ in patches), "not the id of a patch")
        numbers = [id_[:6] for id_ in patches]
        must(all(a < b for a, b in zip(numbers, numbers[1:])), "patches not sorted, or one twice")
    if HELPER in t:
        helper = path(t[HELPER])
        must(not any(within(p, helper) for p in config + state), "a helper that is not the release's")


def paths(value):
    list_ = [path(p) for p in array(value, 1, 64)]
    must(all(a.split(b"/") < b.split(b"/") and not within(a, b) for a, b in zip(list_, list_[1:])), "paths not sorted, or one in another")
    return list_


def within(outer, inner):
    return inner == outer or inner.startswith(outer + b"/")


def path(value):
    """Rule 3, with rule 2."""
    encoded = clean(value, 1, 4096).encode()
    names = encoded.split(b"/")
    must(len(names) <= 64 and all(1 <= len(name) <= 255 and name not in (b".", b"..") for name in names), "not a path")
    return encoded


def clean(value, low, high, allowed=""):
    """Rule 2, and the length in bytes."""
    must(low <= len(text(value).encode()) <= high, "a text of the wrong length")
    must(not any(codepoints.holds(HIDDEN, char) for char in set(value) - set(allowed)), "a code point that may not be")
    return value


def entries(list_):
    directories, sizes, last = {b""}, {}, []
    for entry in list_:
        name, type_, mode, size, blob, link = array(entry, 6, 6)
        names = path(name).split(b"/")
        must(last < names, "entries not sorted, or a path twice")  # rule 4
        must(b"/".join(names[:-1]) in directories, "an entry whose directory is not listed")  # rule 5
        last = names
        number(type_, DIRECTORY, LINK)
        number(mode, 0o777 if type_ == LINK else 0, 0o777 if type_ == LINK else 0o7777)
        clean(link, 1 if type_ == LINK else 0, 4095 if type_ == LINK else 0)
        if type_ == DIRECTORY:
            directories.add(name.encode())
        if type_ != FILE:
            number(size, 0, 0)
            string(blob, 0)
            continue
        raw = cid_binary(blob)[:4] == RAW  # rule 6
        number(size, 0 if raw else LEAST + 1, MOST if raw else LARGEST)
        must((blob == EMPTY) == (size == 0), "an empty blob with a size, or the other way round")
        must(sizes.setdefault(blob, size) == size, "one blob with two sizes")


def total(fields):
    return sum(entry[3] for entry in fields[7])
