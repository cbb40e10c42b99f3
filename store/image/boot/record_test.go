package boot_test

import (
	"bytes"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"satchel/store/image/boot"
)

// reprint parses a record and prints it again.
func reprint(b []byte) ([]byte, error) {
	r, err := boot.Parse(b)
	if err != nil {
		return nil, err
	}
	return r.Encode(), nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	live     = "xo-os-1-41-b5qdvo3e"
	previous = "xo-os-1-40-aaaaaaaa"
	trial    = "xo-os-1-42-x7k2mzqa"
)

// full is a record with all there can be.
func full() boot.Record {
	return boot.Record{
		Generation: 8, Live: live, Previous: previous, Trial: trial, Tries: 2, Booted: trial,
		BootID: "0b7e6a4f-5a2e-4c79-9d0b-6a1f3f0f7c11",
		Failed: []boot.Failure{{ID: "xo-os-1-39-cccccccc", Why: "it was never confirmed"}},
		Floors: []boot.Floor{{Product: "xo-os", Epoch: 1, Seq: 40}},
	}
}

func TestFormatExample(t *testing.T) {
	text, err := os.ReadFile("FORMAT.md")
	must(t, err)
	_, rest, _ := strings.Cut(string(text), "```\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no example")
	}
	if want := full().Encode(); example != string(want) {
		t.Errorf("example of FORMAT.md is\n%swant\n%s", example, want)
	}
}

// vector is one record of testdata/boot.txt.
type vector struct {
	expect, comment string
	record          []byte
}

func vectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/boot.txt")
	must(t, err)
	var all []vector
	for line := range strings.Lines(string(text)) {
		if s, ok := strings.CutPrefix(line, "expect: "); ok {
			all = append(all, vector{expect: strings.TrimSpace(s)})
		} else if s, ok := strings.CutPrefix(line, "comment: "); ok {
			all[len(all)-1].comment = strings.TrimSpace(s)
		} else if s, ok := strings.CutPrefix(line, "\t"); ok {
			s, cut := strings.CutSuffix(s, "\\\n")
			if !cut {
				s = strings.TrimSuffix(s, "\n") + "\\n"
			}
			bytes, err := strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
			must(t, err)
			v := &all[len(all)-1]
			v.record = append(v.record, bytes...)
		}
	}
	if len(all) < 15 {
		t.Fatalf("only %d vectors", len(all))
	}
	return all
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.comment, func(t *testing.T) {
			got, err := reprint(v.record)
			if reason, bad := strings.CutPrefix(v.expect, "error "); bad {
				if err == nil || !strings.Contains(err.Error(), reason) {
					t.Errorf("error is %v, want %q in it", err, reason)
				}
				return
			}
			must(t, err)
			if !bytes.Equal(got, v.record) {
				t.Errorf("printed again it is\n%s", got)
			}
		})
	}
}

// TestEveryFlippedBit changes each bit of a record: it must not count any more.
func TestEveryFlippedBit(t *testing.T) {
	good := full().Encode()
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := reprint(bad); err == nil {
				t.Errorf("bit %d of byte %d flipped and not noticed", bit, i)
			}
		}
		if _, err := reprint(good[:i]); err == nil {
			t.Errorf("cut at %d and not noticed", i)
		}
	}
}

// drawRecord draws any record that the format allows.
func drawRecord(t *rapid.T) boot.Record {
	id := rapid.OneOf(
		rapid.StringMatching(`[a-z0-9.-]{1,64}-(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})-[a-z2-7]{8}`),
		rapid.StringMatching(`[a-z0-9][a-z0-9._]{0,63}`).Filter(boot.ValidID),
		rapid.StringMatching(`set-[2-9]-[a-z2-7]{8}`))
	maybe := rapid.OneOf(id, rapid.Just(""))
	r := boot.Record{
		Generation: rapid.Uint64Range(1, 1<<63-1).Draw(t, "generation"),
		Live:       maybe.Draw(t, "live"), Previous: maybe.Draw(t, "previous"), Trial: maybe.Draw(t, "trial"), Booted: maybe.Draw(t, "booted"),
		More: rapid.StringMatching(`((floor|x-[a-z]{1,8}) [ -~]{1,40}\n){0,4}`).Draw(t, "more"),
	}
	if r.Trial != "" {
		r.Tries = rapid.IntRange(0, boot.MaxTries).Draw(t, "tries")
	}
	if r.Booted != "" && rapid.Bool().Draw(t, "known") {
		r.BootID = rapid.StringMatching(`[0-9a-f-]{36}`).Draw(t, "boot-id")
	}
	for _, id := range rapid.SliceOfNDistinct(id, 0, boot.MaxFailed, rapid.ID[string]).Draw(t, "failed") {
		r.Failed = append(r.Failed, boot.Failure{ID: id, Why: rapid.StringMatching(`([!-~]([ -~]{0,58}[!-~])?)?`).Draw(t, "why")})
	}
	products := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9.-]{1,64}`), 0, boot.MaxFloors, rapid.ID[string]).Draw(t, "products")
	slices.Sort(products)
	for _, p := range products {
		r.Floors = append(r.Floors, boot.Floor{Product: p, Epoch: rapid.Uint64().Draw(t, "epoch"), Seq: rapid.Uint64().Draw(t, "seq")})
	}
	return r
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawRecord(t)
		got, err := boot.Parse(want.Encode())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v\n%+v\n%+v", err, got, want)
		}
	})
}

// FuzzRecord: what is accepted is printed again as it was.
func FuzzRecord(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.record)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := reprint(b); err == nil && !bytes.Equal(got, b) {
			t.Errorf("%q was read, but is printed as %q", b, got)
		}
	})
}
