package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// record is the boot record, in the form of FORMAT.md:
//
//	satchel boot 1
//	generation 7
//	live lessons.maths-1-42-x7k2mzqa
//	previous lessons.maths-1-41-b5qdvo3e
//	sha256 <of all bytes above, in hexadecimal>
type record struct {
	generation uint64 // grows by one with each change; 0 when there is no record
	live       string // id, or empty
	previous   string // id, or empty
	more       string // whole lines that this version does not know, kept as they are
}

const (
	recordMagic   = "satchel boot 1\n"
	maxRecord     = 4096 // bytes
	maxGeneration = math.MaxInt64
)

// encode prints the record.
func (r record) encode() []byte {
	body := fmt.Sprintf("%sgeneration %d\nlive %s\nprevious %s\n%s",
		recordMagic, r.generation, orDash(r.live), orDash(r.previous), r.more)
	sum := sha256.Sum256([]byte(body))
	return []byte(body + "sha256 " + hex.EncodeToString(sum[:]) + "\n")
}

func orDash(id string) string {
	if id == "" {
		return "-"
	}
	return id
}

// parseRecord reads what encode prints and nothing else.
func parseRecord(b []byte) (record, error) {
	r, err := parseBody(string(b))
	if err != nil {
		return record{}, fmt.Errorf("reading boot record: %w", err)
	}
	return r, nil
}

func parseBody(s string) (r record, err error) {
	if len(s) > maxRecord {
		return r, fmt.Errorf("%d bytes, limit is %d", len(s), maxRecord)
	}
	at := strings.LastIndex(s, "\nsha256 ") + 1
	if at == 0 || !strings.HasPrefix(s, recordMagic) {
		return r, errors.New("not a boot record")
	}
	body, sum := s[:at], sha256.Sum256([]byte(s[:at]))
	if s[at:] != "sha256 "+hex.EncodeToString(sum[:])+"\n" {
		return r, errors.New("wrong checksum")
	}
	rest := body[len(recordMagic):]
	if r.generation, err = takeGeneration(&rest); err != nil {
		return r, err
	}
	if r.live, err = takeID(&rest, "live"); err != nil {
		return r, err
	}
	if r.previous, err = takeID(&rest, "previous"); err != nil {
		return r, err
	}
	r.more = rest
	return r, checkMore(rest)
}

// take cuts the line "key value" off the front.
func take(rest *string, key string) (string, error) {
	line, after, ok := strings.Cut(*rest, "\n")
	value, found := strings.CutPrefix(line, key+" ")
	if !ok || !found {
		return "", fmt.Errorf("no %q where it should be", key)
	}
	*rest = after
	return value, nil
}

func takeGeneration(rest *string) (uint64, error) {
	s, err := take(rest, "generation")
	if err != nil {
		return 0, err
	}
	n, ok := parseNumber(s)
	if !ok || n == 0 || n > maxGeneration {
		return 0, fmt.Errorf("generation %q", s)
	}
	return n, nil
}

func takeID(rest *string, key string) (string, error) {
	s, err := take(rest, key)
	if err != nil || s == "-" {
		return "", err
	}
	if _, err := parseID(s); err != nil {
		return "", err
	}
	return s, nil
}

// checkMore makes sure that lines of later versions look like lines, and say nothing that is said above.
func checkMore(more string) error {
	for line := range strings.Lines(more) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok || key == "" || value == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz-") != "" || !printable(value) {
			return fmt.Errorf("line %q", line)
		}
		switch key {
		case "generation", "live", "previous", "sha256":
			return fmt.Errorf("%q twice", key)
		}
	}
	return nil
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// parseNumber reads a decimal number that has only one form.
func parseNumber(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}
