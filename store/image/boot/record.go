package boot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Record is the boot record, in the form of FORMAT.md:
//
//	satchel boot 1
//	generation 8
//	live xo-os-1-41-b5qdvo3e
//	previous xo-os-1-40-aaaaaaaa
//	trial xo-os-1-42-x7k2mzqa
//	tries 2
//	booted xo-os-1-42-x7k2mzqa
//	boot-id 0b7e6a4f-5a2e-4c79-9d0b-6a1f3f0f7c11
//	failed xo-os-1-39-cccccccc 3 tries without a confirmation
//	floor-of xo-os 1 40
//	sha256 <of all bytes above, in hexadecimal>
type Record struct {
	Generation uint64    // grows by one with each change; 0 when there is no record
	Live       string    // id of the deployment in force, or empty
	Previous   string    // id of the one to go back to, or empty
	Trial      string    // id of the one to be tried at the next boot or being tried now, or empty
	Tries      int       // how often the trial may still be entered, 0 to MaxTries
	Booted     string    // id of what the last Select said, or empty
	BootID     string    // the kernel's name for that boot, or empty when it could not be had
	Failed     []Failure // trials that failed, newest last, at most MaxFailed; no id twice
	Floors     []Floor   // sorted by product, at most MaxFloors
	More       string    // whole lines that this version does not know, kept as they are
}

// Failure is a deployment that was tried and not confirmed.
type Failure struct {
	ID  string
	Why string // for people: printable ASCII, at most MaxWhy bytes; may be empty
}

// Floor says that nothing older than (Epoch, Seq) of a product may ever be installed here.
type Floor struct {
	Product    string
	Epoch, Seq uint64
}

// Limits of the format.
const (
	MaxRecord = 4096 // bytes
	MaxTries  = 9
	MaxFailed = 8
	MaxFloors = 16
	MaxWhy    = 60 // bytes

	recordMagic   = "satchel boot 1\n"
	maxGeneration = math.MaxInt64
	maxProduct    = 64 // bytes
	maxName       = 64 // bytes
	shortLen      = 8  // characters of a manifest's CID at the end of an id
)

// Encode prints the record. What is not within the limits is printed all the same, and refused by Write.
func (r Record) Encode() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%sgeneration %d\nlive %s\nprevious %s\n", recordMagic, r.Generation, orDash(r.Live), orDash(r.Previous))
	if r.Trial != "" {
		fmt.Fprintf(&b, "trial %s\ntries %d\n", r.Trial, r.Tries)
	}
	if r.Booted != "" {
		fmt.Fprintf(&b, "booted %s\n", r.Booted)
		if r.BootID != "" {
			fmt.Fprintf(&b, "boot-id %s\n", r.BootID)
		}
	}
	for _, f := range r.Failed {
		fmt.Fprintf(&b, "failed %s\n", strings.TrimSuffix(f.ID+" "+f.Why, " "))
	}
	for _, f := range r.Floors {
		fmt.Fprintf(&b, "floor-of %s %d %d\n", f.Product, f.Epoch, f.Seq)
	}
	b.WriteString(r.More)
	sum := sha256.Sum256([]byte(b.String()))
	return []byte(b.String() + "sha256 " + hex.EncodeToString(sum[:]) + "\n")
}

func orDash(id string) string {
	if id == "" {
		return "-"
	}
	return id
}

// Same says whether two records say the same, whatever their generations.
func (r Record) Same(o Record) bool {
	o.Generation = r.Generation
	return string(r.Encode()) == string(o.Encode())
}

// Parse reads what Encode prints and nothing else.
func Parse(b []byte) (Record, error) {
	r, err := parse(string(b))
	if err != nil {
		return Record{}, fmt.Errorf("reading boot record: %w", err)
	}
	return r, nil
}

func parse(s string) (r Record, err error) {
	if len(s) > MaxRecord {
		return r, fmt.Errorf("%d bytes, limit is %d", len(s), MaxRecord)
	}
	at := strings.LastIndex(s, "\nsha256 ") + 1
	if at == 0 || !strings.HasPrefix(s, recordMagic) {
		return r, errors.New("not a boot record")
	}
	body, sum := s[:at], sha256.Sum256([]byte(s[:at]))
	if s[at:] != "sha256 "+hex.EncodeToString(sum[:])+"\n" {
		return r, errors.New("wrong checksum")
	}
	p := lines{rest: body[len(recordMagic):]}
	r.Generation = p.generation()
	r.Live, r.Previous = p.id("live"), p.id("previous")
	if p.err != nil {
		return r, p.err
	}
	if err := checkLines(p.rest); err != nil {
		return r, err
	}
	p.trial(&r)
	p.booted(&r)
	p.failed(&r)
	p.floors(&r)
	r.More = p.rest
	return r, errors.Join(p.err, checkMore(r.More))
}

// lines is what is left of a record that is being read. After an error it gives nothing more.
type lines struct {
	rest string
	err  error
}

func (p *lines) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

// next is the value of the next line if that has the key.
func (p *lines) next(key string) (string, bool) {
	line, after, ok := strings.Cut(p.rest, "\n")
	value, found := strings.CutPrefix(line, key+" ")
	if !ok || !found || p.err != nil {
		return "", false
	}
	p.rest = after
	return value, true
}

// must is the value of the next line, which must have the key.
func (p *lines) must(key string) string {
	value, ok := p.next(key)
	if !ok {
		p.fail("no %q where it should be", key)
	}
	return value
}

func (p *lines) generation() uint64 {
	s := p.must("generation")
	n, ok := ParseNumber(s)
	if !ok || n == 0 || n > maxGeneration {
		p.fail("generation %q", s)
	}
	return n
}

// id reads a line that must be there and may be a dash.
func (p *lines) id(key string) string {
	s := p.must(key)
	if s == "-" {
		return ""
	}
	return p.valid(s)
}

func (p *lines) valid(id string) string {
	if !ValidID(id) {
		p.fail("%q is not the id of a deployment", id)
	}
	return id
}

func (p *lines) trial(r *Record) {
	id, ok := p.next("trial")
	if !ok {
		return
	}
	r.Trial = p.valid(id)
	s := p.must("tries")
	n, ok := ParseNumber(s)
	if !ok || n > MaxTries {
		p.fail("tries %q", s)
	}
	r.Tries = int(n)
}

func (p *lines) booted(r *Record) {
	id, ok := p.next("booted")
	if !ok {
		return
	}
	r.Booted = p.valid(id)
	if r.BootID, ok = p.next("boot-id"); ok && !validBootID(r.BootID) {
		p.fail("boot-id %q", r.BootID)
	}
}

func (p *lines) failed(r *Record) {
	for {
		s, ok := p.next("failed")
		if !ok {
			return
		}
		id, why, more := strings.Cut(s, " ")
		f := Failure{ID: p.valid(id), Why: why}
		if more && why == "" || why != cleanWhy(why) {
			p.fail("failed %q", s)
		}
		if len(r.Failed) == MaxFailed || r.HasFailed(id) {
			p.fail("%q failed twice, or more than %d did", id, MaxFailed)
		}
		r.Failed = append(r.Failed, f)
	}
}

func (p *lines) floors(r *Record) {
	for {
		s, ok := p.next("floor-of")
		if !ok {
			return
		}
		var numbers [2]uint64
		fields := strings.Split(s, " ")
		ok = len(fields) == 3 && validProduct(fields[0])
		for i := range numbers {
			if ok {
				numbers[i], ok = ParseNumber(fields[i+1])
			}
		}
		if !ok {
			p.fail("floor-of %q", s)
			return
		}
		f := Floor{fields[0], numbers[0], numbers[1]}
		if n := len(r.Floors); n == MaxFloors || n > 0 && r.Floors[n-1].Product >= f.Product {
			p.fail("floor-of %q: more than %d, or not sorted", s, MaxFloors)
		}
		r.Floors = append(r.Floors, f)
	}
}

// checkLines makes sure that what follows the first lines looks like lines.
func checkLines(s string) error {
	for line := range strings.Lines(s) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok || key == "" || value == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz-") != "" || !printable(value) {
			return fmt.Errorf("line %q", line)
		}
	}
	return nil
}

// checkMore refuses lines that say again what is said above.
func checkMore(more string) error {
	known := []string{"generation", "live", "previous", "trial", "tries", "booted", "boot-id", "failed", "floor-of", "sha256"}
	for line := range strings.Lines(more) {
		if key, _, _ := strings.Cut(line, " "); slices.Contains(known, key) {
			return fmt.Errorf("%q twice, or not where it should be", key)
		}
	}
	return nil
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// cleanWhy makes a reason fit into a line of the record.
func cleanWhy(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, strings.TrimSpace(s))
	return strings.TrimSpace(s[:min(len(s), MaxWhy)])
}

// ParseNumber reads a decimal number that has only one form.
func ParseNumber(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

// ValidID says whether a deployment may have this name: the id of a release, <product>-<epoch>-<seq>-<8 characters>, or a name
// that a person or this program gave, of a-z, 0-9 and ". _ -", 1 to 64 bytes, which begins with a letter or digit, does not end
// with .toml or .tmp, and does not look like the id of a release.
func ValidID(id string) bool {
	parts := strings.Split(id, "-")
	n := len(parts)
	if n >= 4 && digits(parts[n-3]) && digits(parts[n-2]) && parts[n-1] != "" {
		_, epoch := ParseNumber(parts[n-3])
		_, seq := ParseNumber(parts[n-2])
		return epoch && seq && len(parts[n-1]) == shortLen && only(parts[n-1], letters+"234567") &&
			validProduct(strings.Join(parts[:n-3], "-"))
	}
	return 1 <= len(id) && len(id) <= maxName && only(id, letters+"0123456789._-") && only(id[:1], letters+"0123456789") &&
		!strings.HasSuffix(id, ".toml") && !strings.HasSuffix(id, ".tmp")
}

const letters = "abcdefghijklmnopqrstuvwxyz"

func digits(s string) bool { return s != "" && only(s, "0123456789") }

func only(s, of string) bool { return strings.Trim(s, of) == "" }

func validProduct(s string) bool {
	return 1 <= len(s) && len(s) <= maxProduct && only(s, letters+"0123456789.-")
}

// validBootID takes what Linux gives: a UUID.
func validBootID(s string) bool { return len(s) == 36 && only(s, "0123456789abcdef-") }
