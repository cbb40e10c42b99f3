"""What a product may have in a manifest: store/manifest/FORMAT.md, "Policy"."""

import re
import unicodedata

import codepoints
from manifest import CONFIG, DIRECTORY, FILE, HELPER, LINK, PATCHES, STATE


def refusals(fields):
    """For each entry the set of permissions that it needs; "never" when none helps. A helper that is no entry is one more, behind the last."""
    terms = fields.get(0, {})
    types = {entry[0]: entry for entry in fields[7]}
    seen, needs = set(), []
    for path, type_, mode, _, _, target in fields[7]:
        directory, _, name = path.rpartition("/")
        sibling = directory, key(name)
        need = set()
        if type_ != LINK and mode & 0o7002:
            need.add("setuid")
        if bad_name(name) or sibling in seen:
            need.add("names")
        if type_ == LINK:
            need |= END[follow(types, path)]
        need |= by_terms(terms, path, type_, mode)
        seen.add(sibling)
        needs.append(need)
    if terms.get(HELPER) not in {None, *types}:
        needs.append({"never"})
    return needs


def by_terms(terms, path, type_, mode):
    """What the terms ask of an entry."""
    def above(paths):
        return any(p.startswith(path + "/") for p in paths)

    state, need = terms.get(STATE, []), set()
    if type_ != DIRECTORY:
        if any(id_[0] == "8" for id_ in terms.get(PATCHES, [])) or path in state or above(state) or above(terms.get(CONFIG, [])):
            need.add("never")
    if state and (path + "/").startswith("state/"):
        need.add("never")
    if path == terms.get(HELPER):
        need.add("run")
        if type_ != FILE or not mode & 0o100:
            need.add("never")
    return need


# Names

IGNORED = codepoints.ranges("34F 115F-1160 17B4-17B5 180B-180F 200B-200D 3164 FE00-FE0F FFA0 E0100-E01EF")
DEVICES = {"CON", "PRN", "AUX", "NUL"} | {word + digit for word in ("COM", "LPT") for digit in "123456789\u00b9\u00b2\u00b3"}


def key(name):
    """What file systems that fold case and normal forms compare."""
    visible = "".join(char for char in name if not codepoints.holds(IGNORED, char))
    return nfd(nfd(visible).casefold())


def nfd(value):
    return unicodedata.normalize("NFD", value)


def bad_name(name):
    """Rules 1 to 7. The eighth, an earlier sibling with the same key, is the caller's."""
    stem = re.split("[.:]", name)[0].rstrip(" ")
    stem = "".join(char.upper() if char.isascii() else char for char in stem)
    short = name.isascii() and re.fullmatch(r"(?=[^.]{1,8}(\.|$))[^~. ]+~[0-9]+(\.[^. ]{0,3})?", name)
    marks = "".join("m" if unicodedata.combining(char) else "." for char in nfd(name))
    return ("\\" in name or name[-1] in ". " or stem in DEVICES or short or "m" * 17 in marks
            or not unicodedata.is_normalized("NFC", name) or key(name) == "")


# Links

INSIDE, OUT, ENDLESS = "inside", "out", "endless"
END = {INSIDE: set(), OUT: {"link-out"}, ENDLESS: {"never"}}


class Stop(Exception):
    """Where following a link ends before its target does."""


def follow(entries, path):
    """What happens first when the link at `path` is followed."""
    links = 0

    def walk(link):
        """The names from the top of the tree to where the link ends."""
        nonlocal links
        links += 1
        if links > 40:
            raise Stop(ENDLESS)
        here, target = link.split("/")[:-1], entries[link][5]
        if target.startswith("/"):
            raise Stop(OUT)
        for name in target.split("/"):
            if name == ".." and not here:
                raise Stop(OUT)
            if name == "..":
                here = here[:-1]
            elif name not in ("", "."):
                here = here + [name]
                next_ = "/".join(here)
                if next_ in entries and entries[next_][1] == LINK:
                    here = walk(next_)
        return here

    try:
        walk(path)
        return INSIDE
    except Stop as stop:
        return stop.args[0]
