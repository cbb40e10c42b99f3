"""Beacons: p2p/beacon/PROTOCOL.md, "Format"."""

from cbor import array, decode, encode, mapping, must, number, string


def beacon(data):
    must(len(data) <= 512, "longer than 512 bytes")
    fields = mapping(decode(data))
    must(1 in fields, "no form")
    must(number(fields[1]) == 1, "another form", "ignored")
    must(set(range(1, 8)) <= fields.keys(), "a field is missing")
    string(fields[2], 1, 64)
    number(fields[3], 0, 65535)
    number(fields[4], 0, 65535)
    string(fields[5], 8)
    number(fields[6])
    low, high, tags = array(fields[7], 3, 3)
    number(low, 0, (1 << 32) - 1)
    number(high, low, (1 << 32) - 1)
    must(len(string(tags, 0, 256)) % 4 == 0, "half a tag")
    last = low - 1
    for at in range(0, len(tags), 4):
        tag = int.from_bytes(tags[at:at + 4], "big")
        must(last < tag <= high, "tags not ascending, or not in the range")
        last = tag
    extensions = {key: value for key, value in fields.items() if key not in range(1, 8)}
    must(len(extensions) <= 8, "too many extensions")
    for key, value in extensions.items():
        number(key, 32, 65535)
        must(isinstance(value, (int, bytes)) and len(encode(value)) <= 128, "an extension of another type, or too long")
    return fields
