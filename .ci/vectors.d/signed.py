"""The signed documents: announce/FORMAT.md. Names of functions are headings of that page."""

import base64
import collections
import hashlib
import re

import cbor
import codepoints
import ed25519
from cbor import Refused, array, ascending, decode, must, number, string, text

MOST = (1 << 64) - 1
TIME, SIZE = (1 << 63) - 1, 1 << 50
ROOT, TIMESTAMP, WAKE = 0, 1, 2

Signed = collections.namedtuple("Signed", "payload signatures fields")  # signatures: key id -> signature
Root = collections.namedtuple("Root", "version keys roles rules")       # keys: key id -> key; roles: role -> Signers
Signers = collections.namedtuple("Signers", "keys threshold")
Rule = collections.namedtuple("Rule", "pattern epoch signers floor")


# Conventions

def key_id(key):
    return hashlib.sha256(b"satchel/key/v1\0" + key).digest()[:8]


def document_id(payload):
    return hashlib.sha256(payload).digest()[:20]


def product_name(name):
    must(re.fullmatch("[a-z0-9]([a-z0-9.-]*[a-z0-9])?", text(name)) and len(name) <= 64 and ".." not in name, "not a product name")
    return name


def pattern(value):
    if text(value) != "*":
        product_name(value[:-2] if value.endswith(".*") else value)
    return value


def covers(pattern_, name):
    return pattern_ in (name, "*") or pattern_.endswith(".*") and name.startswith(pattern_[:-1])


HIDDEN = codepoints.LAST_TWO + codepoints.ranges("""0-1F 7F-A0 AD 34F 61C 115F-1160 1680 17B4-17B5 180B-180F 2000-200F 2028-202F
    205F-206F 2800 3000 3164 E000-F8FF FDD0-FDEF FE00-FE0F FEFF FFA0 FFF0-FFFF 1BCA0-1BCA3 1D173-1D17A E0000-10FFFF""")


def display_version(value):
    must(1 <= len(text(value).encode()) <= 64, "a display version of the wrong length")
    must(value == value.strip(" ") and not any(codepoints.holds(HIDDEN, char) for char in value), "a display version that cannot be shown")
    return value


# Key files

def key_file(data, word):
    must(len(data) <= 4096, "a key file that is too long")
    lines = [line.strip(b" \t\r") for line in data.split(b"\n")]
    lines = [line for line in lines if line and not line.startswith(b"#")]
    must(len(lines) == 1, "not exactly one line")
    match = re.fullmatch(word.encode() + b" +([A-Za-z0-9+/]{43}=)", lines[0])
    must(match, "not the word and 32 bytes in base64")
    raw = base64.b64decode(match[1])
    must(base64.b64encode(raw) == match[1], "unused bits are not zero")
    return raw


def public_key_file(data):
    raw = key_file(data, "satchel-public-key-v1")
    ed25519.public_key(raw)
    return raw


def private_key_file(data):
    return key_file(data, "satchel-private-key-v1")


# Envelope

def envelope(data, limit, fewest=1):
    must(len(data) <= limit, "an envelope that is too long")
    return read_envelope(decode(data), fewest)


def read_envelope(value, fewest=1):
    payload, list_ = array(value, 2, 2)
    pairs = [array(pair, 2, 2) for pair in array(list_, fewest, 64)]
    ids = [string(pair[0], 8) for pair in pairs]
    ascending(ids, "signatures not sorted, or two of one key")
    signatures = {id_: string(pair[1], 64) for id_, pair in zip(ids, pairs)}
    return Signed(string(payload, 0, MOST), signatures, None)


def read_fields(signed, required, optional):
    """The map of a payload, and whether it has a critical key that version 1 does not know."""
    fields = cbor.mapping(decode(signed.payload))
    must(required <= fields.keys(), "a field is missing")
    return fields, any(key < 64 and key not in required | optional for key in fields)


def not_too_new(too_new):
    """Called last: what is malformed as well is malformed."""
    must(not too_new, "too new", "too-new")


# Announcement

def announcement(data):
    signed = envelope(data, 512)
    f, too_new = read_fields(signed, {1, 2, 3, 4, 5, 6, 7}, {8, 9, 10, 11, 12, 13, 14})
    product_name(f[1])
    for key in (2, 3, 4):
        number(f[key], 1)
    display_version(f[5])
    must(string(f[6], 36)[:4] in (b"\1\x55\x12\x20", b"\1\x51\x12\x20"), "not a CID of version 1")
    number(f[7], 1, SIZE)
    most = {8: SIZE, 9: TIME, 10: TIME, 11: f[4], 12: MOST, 13: MOST, 14: f[4] - 1}
    for key in most.keys() & f.keys():
        number(f[key], 1, most[key])
    not_too_new(too_new or f.get(12, 0) > 3)
    return signed._replace(fields=f)


# Trust root

def trust_root(data):
    return read_root(envelope(data, 65536))


def read_root(signed):
    """A trust root, and what it says."""
    f, too_new = read_fields(signed, {1, 4, 5, 6}, {2, 3})
    number(f[1], 1)
    for key in {2, 3} & f.keys():
        number(f[key], 1, TIME)
    keys = [string(key, 32) for key in array(f[4], 1, 64)]
    ascending(keys, "keys not sorted, or twice")
    for key in keys:
        ed25519.public_key(key)
    by_id = {key_id(key): key for key in keys}
    must(len(by_id) == len(keys), "two keys with one id")
    roles = {role: signers(*array(value, 2, 2), by_id) for role, value in cbor.mapping(f[5]).items()}
    must(ROOT in roles, "no root role")
    rules = []
    for value in array(f[6], 0, 1024):
        pattern_, epoch, ids, threshold, floor, class_, flags = array(value, 7, 7)
        rules.append(Rule(pattern(pattern_), number(epoch, 1), signers(ids, threshold, by_id), number(floor)))
        too_new |= (number(flags) > 31) | (text(class_) not in ("content", "system", "bookkeeping"))
    ascending([rule.pattern for rule in rules], "rules not sorted, or twice")
    not_too_new(too_new or roles.keys() - {ROOT, TIMESTAMP, WAKE})
    return signed._replace(fields=Root(f[1], by_id, roles, rules))


def signers(ids, threshold, by_id):
    ids = [string(id_, 8) for id_ in array(ids)]
    ascending(ids, "key ids not sorted, or twice")
    must(set(ids) <= by_id.keys(), "a key id that is not listed")
    return Signers(ids, number(threshold, 1, len(ids)))


# Root files

def root_file(data):
    """Trust roots one after the other. Their payloads, or refused as a draft."""
    roots, at = [], 0
    while not roots or at < len(data):
        must(len(roots) < 64, "more than 64 roots")
        _, end = cbor.item(data, at)
        must(end - at <= 65536, "an envelope that is too long")
        root = read_root(read_envelope(decode(data[at:end]), fewest=0))
        must(end == len(data) or root.signatures, "a root without signatures that is not the last")
        if roots:
            must(root.fields.version == roots[-1].fields.version + 1, "versions that are not consecutive")
        try:
            root_holds(root, [before.fields for before in roots[-1:]])
        except Refused:
            must(end == len(data), "a draft that is not the last")
            raise
        roots.append(root)
        at = end
    return [root.payload for root in roots]


# Timestamp

def timestamp(data):
    signed = envelope(data, 65536)
    f, too_new = read_fields(signed, {1, 2, 3}, set())
    number(f[1], 1)
    number(f[2], 1, TIME)
    names = []
    for value in array(f[3], 0, 512):
        name, epoch, seq = array(value, 3, 3)
        names.append(product_name(name))
        number(epoch, 1)
        number(seq, 1)
    ascending(names, "heads not sorted, or a product twice")
    not_too_new(too_new)
    return signed._replace(fields=f)


# Processing

def signatures_that_count(domain, signed, root, who):
    """Whether the threshold of `who` is reached by keys of `root`."""
    message = b"satchel/" + domain + b"/v1\0" + signed.payload
    good = [id_ for id_ in who.keys if id_ in signed.signatures and
            ed25519.verifies(root.keys[id_], message, signed.signatures[id_])]
    return len(good) >= who.threshold


def trust(condition, why):
    must(condition, why, "trust")


def root_holds(signed, chain):
    """`chain` are the trust roots that the node has, oldest first. A first one must bear its own threshold."""
    root = signed.fields
    if chain:
        trust(root.version == chain[-1].version + 1, "does not follow")
        trust(signatures_that_count(b"root", signed, chain[-1], chain[-1].roles[ROOT]), "not signed by the root before it")
    trust(signatures_that_count(b"root", signed, root, root.roles[ROOT]), "not signed by its own keys")


def newest(version, chain):
    """The newest root, when the node has one and it is not older than the one that the document names."""
    trust(chain, "no trust root")
    trust(version <= chain[-1].version, "signed under a newer root")
    return chain[-1]


def rule_for(root, product):
    """Of several patterns the equal one counts, else the longest."""
    rules = [rule for rule in root.rules if covers(rule.pattern, product)]
    trust(rules, "no rule")
    return max(rules, key=lambda rule: (rule.pattern == product, len(rule.pattern)))


def announcement_holds(signed, chain):
    product, version, epoch, seq = (signed.fields[key] for key in (1, 2, 3, 4))
    rule = rule_for(newest(version, chain), product)
    trust(epoch == rule.epoch and seq >= rule.floor, "another epoch, or below the floor")
    for root in [chain[-1]] + [root for root in chain[:-1] if root.version == version]:
        trust(signatures_that_count(b"announcement", signed, root, rule_for(root, product).signers), "threshold not reached")


def timestamp_holds(signed, chain):
    root = newest(signed.fields[1], chain)
    trust(TIMESTAMP in root.roles, "nobody may sign timestamps")
    trust(signatures_that_count(b"timestamp", signed, root, root.roles[TIMESTAMP]), "threshold not reached")
