package image_test

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"satchel/store/image"
)

func TestFormatExample(t *testing.T) {
	text, err := os.ReadFile("FORMAT.md")
	must(t, err)
	_, rest, _ := strings.Cut(string(text), "```\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no example")
	}
	want := image.PrintRecord(7, "lessons.maths-1-42-x7k2mzqa", "lessons.maths-1-41-b5qdvo3e", "")
	if example != string(want) {
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
			got, err := image.ReprintRecord(v.record)
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
	good := image.PrintRecord(7, "a-1-2-abcdefgh", "", "floor 3\n")
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := image.ReprintRecord(bad); err == nil {
				t.Errorf("bit %d of byte %d flipped and not noticed", bit, i)
			}
		}
		if _, err := image.ReprintRecord(good[:i]); err == nil {
			t.Errorf("cut at %d and not noticed", i)
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	id := rapid.StringMatching(`([a-z0-9.-]{1,64}-(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})-[a-z2-7]{8})?`)
	rapid.Check(t, func(t *rapid.T) {
		want := image.PrintRecord(rapid.Uint64Range(1, 1<<63-1).Draw(t, "generation"), id.Draw(t, "live"), id.Draw(t, "previous"),
			rapid.StringMatching(`((tries|floor|x-[a-z]{1,8}) [ -~]{1,40}\n){0,4}`).Draw(t, "more"))
		got, err := image.ReprintRecord(want)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v\n%s\n%s", err, got, want)
		}
	})
}

// FuzzRecord: what is accepted is printed again as it was.
func FuzzRecord(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.record)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := image.ReprintRecord(b); err == nil && !bytes.Equal(got, b) {
			t.Errorf("%q was read, but is printed as %q", b, got)
		}
	})
}
