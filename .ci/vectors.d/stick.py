"""The files on a stick: fetch/stick/FORMAT.md."""

from cbor import must
from content import LARGEST, longest_list, sha256

U32 = 4


def u32(data, at):
    must(at + U32 <= len(data), "ends inside a number")
    return int.from_bytes(data[at:at + U32], "big")


def pack(data):
    """The table of a pack, and nothing behind it."""
    must(data.startswith(b"satchel pack v1\n"), "not a pack")
    n = u32(data, 16)
    must(1 <= n <= 65536, "no pieces, or too many")
    end = 20 + 36 * n
    must(len(data) == end + 32, "a table of another length")
    for at in range(20, end, 36):
        must(1 <= u32(data, at) <= longest_list(LARGEST), "a piece of a size that none has")
    must(sha256(data[:end]) == data[end:], "wrong checksum")


LIMITS = {1: (20, 1), 2: (512, 10128), 3: (65536, 64), 4: (32, 1)}  # type: bytes of the data, number of records


def catalog(data):
    must(data.startswith(b"satchel catalog v1\n"), "not a catalog")
    at, types = 19, []
    while at < len(data):
        type_, size = data[at], u32(data, at + 1)
        must(type_ in LIMITS and type_ >= max(types, default=1), "an unknown type, or types that decrease")
        must(size <= LIMITS[type_][0] and at + 5 + size <= len(data), "a record that is too long")
        must(type_ in (2, 3) or size == LIMITS[type_][0], "a record that is too short")
        must(type_ != 4 or data[at + 5:] == sha256(data[:at]), "wrong checksum")
        types.append(type_)
        at += 5 + size
    must(types[:1] == [1] and types[-1:] == [4], "no root, or no checksum")
    must(all(types.count(type_) <= LIMITS[type_][1] for type_ in LIMITS), "too many records")
