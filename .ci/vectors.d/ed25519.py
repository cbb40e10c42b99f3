"""Ed25519 as announce/FORMAT.md, "Signatures" and "Key files", and RFC 8032, section 5.1, demand. Not constant-time: it verifies only."""

import functools
import hashlib

from cbor import must

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)  # of -1


def recover_x(y, sign):
    """RFC 8032, 5.1.3. None when no point of the curve has this y and sign."""
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * ROOT % P
    if x * x % P != square or x == 0 and sign:
        return None
    return P - x if x & 1 != sign else x


def affine(x, y):
    return x, y, 1, x * y % P


NEUTRAL = affine(0, 1)
BASE = affine(recover_x(4 * pow(5, P - 2, P) % P, 0), 4 * pow(5, P - 2, P) % P)


def add(a, b):
    """RFC 8032, 5.1.4: extended coordinates; complete, so it doubles as well."""
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    g, h = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(n, point):
    sum_ = NEUTRAL
    for bit in bin(n)[2:]:
        sum_ = add(sum_, sum_)
        if bit == "1":
            sum_ = add(sum_, point)
    return sum_


def encode(point):
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


@functools.lru_cache(maxsize=None)
def public_key(raw):
    """The point of a public key: 32 bytes, canonical, on the curve, not of low order."""
    must(isinstance(raw, bytes) and len(raw) == 32, "a public key has 32 bytes")
    n = int.from_bytes(raw, "little")
    y, sign = n & (1 << 255) - 1, n >> 255
    must(y < P, "a public key that is not canonical")
    x = recover_x(y, sign)
    must(x is not None, "a public key that is no point of the curve")
    point = affine(x, y)
    must(encode(multiply(8, point)) != encode(NEUTRAL), "a public key of low order")
    return point


def from_seed(seed):
    """The public key of a private one (RFC 8032, 5.1.5)."""
    n = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    return encode(multiply(n & ~7 & (1 << 254) - 1 | 1 << 254, BASE))


@functools.lru_cache(maxsize=None)
def verifies(raw, message, signature):
    """No cofactor; S < L; R is compared by its bytes."""
    point = public_key(raw)
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    if s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(r + raw + message).digest(), "little") % L
    minus = P - point[0], point[1], 1, P - point[3]
    return encode(add(multiply(s, BASE), multiply(k, minus))) == r
