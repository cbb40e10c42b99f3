"""What the documents show must be what their vectors and rules give."""

import ast
import re

import boot
import cbor
import content
import ed25519
import signed


def lines(document, after, before):
    """The bytes shown between two phrases of a document: of each line the hexadecimal that it begins with."""
    section = document.split(after)[1].split(before)[0]
    pattern = "(?:[0-9a-f]{2})+(?: {1,2}(?:[0-9a-f]{2})+)*(?=$|   )|"
    return [bytes.fromhex(re.match(pattern, line.strip())[0]) for line in section.split("\n")]


def in_order(parts, data):
    """The parts that do not come one after the other in the data, with gaps where the document has dots."""
    at, lost = 0, []
    for part in parts:
        found = data.find(part, at)
        lost += [part] if found < 0 else []
        at = max(at, found + len(part))
    return lost


def diagnostic(notation):
    """CBOR from the diagnostic notation that the documents use."""
    return cbor.encode(ast.literal_eval(re.sub("h'(.*?)'", lambda match: repr(bytes.fromhex(match[1])), notation.strip())))


def examples(top, vector):
    """Pairs of what a document shows and what it should show. `vector` gives the bytes of a vector file."""
    announce = (top / "announce/FORMAT.md").read_text("utf-8")
    minimal = vector("announce/testdata/ann-minimal.txt")
    yield b"".join(lines(announce, "An announcement, 143 bytes", "Its id is")), minimal
    yield b"".join(lines(announce, "A timestamp, whole", "## Conventions")), vector("announce/testdata/time-two.txt")
    yield in_order(lines(announce, "the payload of which begins", "A timestamp, whole"), vector("announce/testdata/root-one.txt")), []
    yield re.search("Its id is `(.*?)`", announce)[1], signed.document_id(signed.announcement(minimal).payload).hex()
    key = signed.public_key_file(re.search("satchel-public-key-v1 .*=\n", announce)[0].encode())
    yield key, ed25519.from_seed(b"\1" * 32)
    yield key, signed.public_key_file(vector("announce/testdata/key-public.txt"))
    yield b"\1" * 32, signed.private_key_file(vector("announce/testdata/key-private.txt"))

    store = (top / "store/FORMAT.md").read_text("utf-8")
    list_ = vector("store/testdata/chunk/stream-100k.txt")
    half = content.cid_of(b"one half is 1/2")[0]
    yield re.findall("\n    (b[a-z2-7]{58})\n", store), [content.cid_text(cid) for cid in (half, content.LIST + content.sha256(list_))]
    yield diagnostic(re.search(r"\[1, 100000,[^']*'[^']*'\]", store)[0]), list_
    yield re.search("SHA-256\n`([0-9a-f]{64})`", store)[1], content.sha256((top / "store/testdata/gear.txt").read_bytes()).hex()

    manifest = (top / "store/manifest/FORMAT.md").read_text("utf-8")
    yield diagnostic(re.search(r"\{1: 1,.*?\]\}", manifest, re.S)[0]), vector("store/manifest/testdata/example.txt")
    yield half.hex() in manifest, True

    record = (top / "store/image/boot/FORMAT.md").read_text("utf-8")
    yield boot.record(re.search("```\n(.*?)```", record, re.S)[1].encode()), None

    stick = (top / "fetch/stick/FORMAT.md").read_text("utf-8")
    yield b"".join(lines(stick, "The shortest pack", "## Conventions")), vector("fetch/stick/testdata/pack-one.txt") + b"x"

    beacon = (top / "p2p/beacon/PROTOCOL.md").read_text("utf-8")
    yield in_order(lines(beacon, "## An example", "`testdata/"), vector("p2p/beacon/testdata/vectors/whole.txt")), []
