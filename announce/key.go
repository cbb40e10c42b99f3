package announce

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"filippo.io/edwards25519"
)

// KeyID names a public key: the first 8 bytes of SHA-256("satchel/key/v1\0" || key).
type KeyID [8]byte

// String is the id in hexadecimal.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// PublicKey is an Ed25519 public key (RFC 8032) that passed ParsePublicKey's checks. It is comparable.
type PublicKey struct{ b [ed25519.PublicKeySize]byte }

// PrivateKey is an Ed25519 private key. Printing or logging one shows only the id of its public half.
type PrivateKey struct{ seed [ed25519.SeedSize]byte }

// String names the key without giving it away.
func (k PrivateKey) String() string { return "private key of " + k.Public().ID().String() }

// GoString is String: %#v must not show the seed either.
func (k PrivateKey) GoString() string { return k.String() }

// LogValue keeps slog from asking MarshalText.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

const (
	privateWord = "satchel-private-key-v1"
	publicWord  = "satchel-public-key-v1"
	maxKeyFile  = 4096
)

// GenerateKey makes a key from 32 bytes of rand.
func GenerateKey(rand io.Reader) (k PrivateKey, err error) {
	if _, err := io.ReadFull(rand, k.seed[:]); err != nil {
		return k, fmt.Errorf("generating a key: %w", err)
	}
	return k, nil
}

// Public is the key that others know.
func (k PrivateKey) Public() (p PublicKey) {
	copy(p.b[:], ed25519.NewKeyFromSeed(k.seed[:]).Public().(ed25519.PublicKey))
	return p
}

func (k PrivateKey) sign(msg []byte) []byte {
	return ed25519.Sign(ed25519.NewKeyFromSeed(k.seed[:]), msg)
}

// MarshalText writes the one-line file form.
func (k PrivateKey) MarshalText() ([]byte, error) { return keyLine(privateWord, k.seed[:]), nil }

// MarshalText writes the one-line file form.
func (p PublicKey) MarshalText() ([]byte, error) { return keyLine(publicWord, p.b[:]), nil }

// ID names the key.
func (p PublicKey) ID() (id KeyID) {
	h := sha256.New()
	h.Write([]byte("satchel/key/v1\x00"))
	h.Write(p.b[:])
	copy(id[:], h.Sum(nil))
	return id
}

// Bytes is the 32-byte encoding of RFC 8032.
func (p PublicKey) Bytes() []byte { return bytes.Clone(p.b[:]) }

func (p PublicKey) verify(msg, sig []byte) bool {
	return ed25519.Verify(p.b[:], msg, sig)
}

func keyLine(word string, b []byte) []byte {
	return []byte(word + " " + base64.StdEncoding.EncodeToString(b) + "\n")
}

// ParsePrivateKey reads a private key file: one line of word and base64, among empty lines and lines that begin
// with #.
func ParsePrivateKey(text []byte) (k PrivateKey, err error) {
	b, err := parseKeyLine(text, privateWord)
	if err != nil {
		return k, err
	}
	copy(k.seed[:], b)
	return k, nil
}

// ParsePublicKey reads a public key file, of the same form as a private one.
func ParsePublicKey(text []byte) (PublicKey, error) {
	b, err := parseKeyLine(text, publicWord)
	if err != nil {
		return PublicKey{}, err
	}
	return NewPublicKey(b)
}

// NewPublicKey checks a raw key. Refused are wrong lengths (crypto/ed25519 panics on them), points in a
// non-canonical encoding, and points of low order, under which one signature fits every message.
func NewPublicKey(b []byte) (p PublicKey, err error) {
	point, err := new(edwards25519.Point).SetBytes(b)
	if err != nil {
		return p, errors.New("public key is not the 32 bytes of a point of the curve")
	}
	if !bytes.Equal(point.Bytes(), b) {
		return p, errors.New("public key is not in canonical form")
	}
	if new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return p, errors.New("public key has low order")
	}
	copy(p.b[:], b)
	return p, nil
}

func parseKeyLine(text []byte, word string) (key []byte, err error) {
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("key file of %d bytes is too long", len(text))
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		line = strings.Trim(line, " \t\r")
		switch {
		case line == "" || line[0] == '#':
		case key != nil:
			return nil, errors.New("key file has more than one key")
		default:
			if key, err = decodeKeyLine(line, word); err != nil {
				return nil, err
			}
		}
	}
	if key == nil {
		return nil, errors.New("key file is empty")
	}
	return key, nil
}

// decodeKeyLine never quotes what it read: it may be somebody's secret in the wrong file.
func decodeKeyLine(line, word string) ([]byte, error) {
	got, rest, _ := strings.Cut(line, " ")
	switch {
	case got == word:
	case got == privateWord || got == publicWord:
		return nil, fmt.Errorf("key file begins with %q, not %q", got, word)
	default:
		return nil, fmt.Errorf("key file does not begin with %q", word)
	}
	rest = strings.TrimLeft(rest, " ")
	b, err := base64.StdEncoding.Strict().DecodeString(rest)
	if err != nil || len(b) != 32 || strings.Contains(rest, "\r") { // the decoder skips line ends
		return nil, errors.New("key file has no 32 bytes of base64 after its first word")
	}
	return b, nil
}
