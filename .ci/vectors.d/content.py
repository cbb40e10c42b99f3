"""Blobs, chunk lists and manifests: store/FORMAT.md."""

import base64
import hashlib

from cbor import array, decode, encode, must, number, string

KIB, GIB = 1 << 10, 1 << 30
LEAST, NORMAL, MOST = 16 * KIB, 64 * KIB, 256 * KIB
RAW, LIST = b"\1\x55\x12\x20", b"\1\x51\x12\x20"  # how CIDs begin
LARGEST = 64 * GIB


def sha256(data):
    return hashlib.sha256(data).digest()


# Conventions

def cid_text(cid):
    return "b" + base64.b32encode(cid).decode().rstrip("=").lower()


def cid_from_text(value):
    return base64.b32decode(value[1:].upper() + "=" * (-len(value[1:]) % 8))


def cid_binary(value):
    """A CID of 36 bytes, in binary."""
    must(string(value, 36)[:4] in (RAW, LIST), "not a CID of version 1")
    return value


# Chunks

GEAR = [int.from_bytes(sha256(b"satchel gear v1\0" + bytes([b]))[:8], "big") for b in range(256)]


def chunks(blob):
    at = 0
    while at < len(blob):
        end = at + chunk_end(blob[at:at + MOST])
        yield blob[at:end]
        at = end


def chunk_end(data):
    hash_ = 0
    for i in range(LEAST, len(data)):
        hash_ = (2 * hash_ + GEAR[data[i]]) & (1 << 64) - 1
        if hash_ < (1 << 46 if i < NORMAL else 1 << 50):
            return i + 1
    return len(data)


# CIDs of blobs

def cid_of(blob):
    """The CID of a blob, the sizes of its chunks, and its chunk list (empty when it has none)."""
    parts = list(chunks(blob))
    sizes = [len(part) for part in parts]
    if len(parts) < 2:
        return RAW + sha256(blob), sizes, b""
    list_ = encode([1, len(blob), sizes, b"".join(map(sha256, parts))])
    return LIST + sha256(list_), sizes, list_


# Chunk list

def longest_list(size):
    return (size // LEAST + 1) * 37 + 32


def chunk_list(data, cid, size):
    must(cid[:4] == LIST, "a blob without a chunk list")
    must(len(data) <= longest_list(size), "a list that is too long")
    must(sha256(data) == cid[4:], "not the list of this CID")
    version, size_, sizes, digests = array(decode(data, 2, len(data)), 4, 4)
    must(number(version) == 1, "not version 1")
    string(digests, 32 * len(array(sizes, 2)))
    for n in sizes[:-1]:
        number(n, LEAST, MOST)
    number(sizes[-1], 1, MOST)
    must(sum(sizes) == number(size_, 0, LARGEST) == size, "the sizes do not add up")
    return sizes
