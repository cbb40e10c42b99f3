"""The subset of CBOR that all documents share (announce/FORMAT.md, "Conventions"): RFC 8949, core deterministic encoding."""

UINT, BYTES, TEXT, ARRAY, MAP = 0, 2, 3, 4, 5


class Refused(Exception):
    """What a reader says of a document that it does not take. `verdict` is "form", "too-new" or "trust"."""

    def __init__(self, why, verdict="form"):
        super().__init__(why)
        self.verdict = verdict


def must(condition, why, verdict="form"):
    if not condition:
        raise Refused(why, verdict)


def head(data, at):
    """Reads major type, argument and the place behind them."""
    must(at < len(data), "ends before a value")
    major, info = data[at] >> 5, data[at] & 31
    must(major in (UINT, BYTES, TEXT, ARRAY, MAP), "negative, tagged, float or simple value")
    must(info < 28, "indefinite or reserved length")
    if info < 24:
        return major, info, at + 1
    size = 1 << (info - 24)
    must(at + 1 + size <= len(data), "ends inside a head")
    n = int.from_bytes(data[at + 1:at + 1 + size], "big")
    must(n >= (24 if size == 1 else 1 << (4 * size)), "head longer than needed")
    return major, n, at + 1 + size


def item(data, at, depth=8, elements=4096):
    """Reads one value and the place behind it. At most `depth` arrays and maps are nested, none has more than `elements`."""
    major, n, at = head(data, at)
    if major == UINT:
        return n, at
    if major in (BYTES, TEXT):
        must(n <= len(data) - at, "ends inside a string")
        raw, at = data[at:at + n], at + n
        if major == BYTES:
            return raw, at
        try:
            return raw.decode("utf-8"), at
        except UnicodeDecodeError:
            raise Refused("text that is not UTF-8") from None
    must(depth > 0, "nested too deeply")
    must(n <= elements and n <= len(data) - at, "too many elements")
    if major == ARRAY:
        values = []
        for _ in range(n):
            value, at = item(data, at, depth - 1, elements)
            values.append(value)
        return values, at
    pairs, last = {}, -1
    for _ in range(n):
        must(at < len(data) and data[at] >> 5 == UINT, "map key that is not a number")
        _, key, at = head(data, at)
        must(key > last, "map keys not sorted, or twice")
        pairs[key], at = item(data, at, depth - 1, elements)
        last = key
    return pairs, at


def decode(data, depth=8, elements=4096):
    """Reads exactly one value. Refuses it unless encoding it again gives the same bytes."""
    value, end = item(data, 0, depth, elements)
    must(end == len(data), "bytes behind the value")
    must(encode(value) == data, "not the one encoding")
    return value


def encode(value):
    if isinstance(value, int):
        return encode_head(UINT, value)
    if isinstance(value, bytes):
        return encode_head(BYTES, len(value)) + value
    if isinstance(value, str):
        return encode_head(TEXT, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return encode_head(ARRAY, len(value)) + b"".join(map(encode, value))
    return encode_head(MAP, len(value)) + b"".join(encode(k) + encode(value[k]) for k in sorted(value))


def encode_head(major, n):
    if n < 24:
        return bytes([major << 5 | n])
    info = next(i for i in range(4) if n < 1 << (8 << i))
    return bytes([major << 5 | 24 + info]) + n.to_bytes(1 << info, "big")


def number(value, low=0, high=(1 << 64) - 1):
    must(isinstance(value, int) and low <= value <= high, "not a number from %d to %d" % (low, high))
    return value


def string(value, low, high=None):
    """A byte string of `low` to `high` bytes, or of exactly `low`."""
    must(isinstance(value, bytes) and low <= len(value) <= (low if high is None else high), "not a byte string of the right length")
    return value


def text(value):
    must(isinstance(value, str), "not a text")
    return value


def array(value, low=0, high=None):
    """An array of `low` to `high` elements; without `high`, of any number from `low` on."""
    must(isinstance(value, list) and low <= len(value) and (high is None or len(value) <= high), "not an array of the right length")
    return value


def mapping(value):
    must(isinstance(value, dict), "not a map")
    return value


def ascending(values, why):
    must(all(a < b for a, b in zip(values, values[1:])), why)
