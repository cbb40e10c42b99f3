package stick

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"satchel/announce"
	"satchel/fetch"
	"satchel/store"
)

// The tests of this file stand at single checks: what they offer is good but for one thing, or exactly at a limit.

func TestCatalogLimits(t *testing.T) {
	many := func(n, size int) [][]byte { return slices.Repeat([][]byte{make([]byte, size)}, n) }
	for name, c := range map[string]struct {
		d    Documents
		want bool
	}{
		"as many announcements as may be": {Documents{Announcements: many(MaxAnnouncements, 0)}, true},
		"one more":                        {Documents{Announcements: many(MaxAnnouncements+1, 0)}, false},
		"an announcement of 512 bytes":    {Documents{Announcements: many(1, announce.MaxEnvelope)}, true},
		"one of 513":                      {Documents{Announcements: many(1, announce.MaxEnvelope+1)}, false},
		"as many timestamps as may be":    {Documents{Timestamps: many(MaxTimestamps, 0)}, true},
		"a timestamp more":                {Documents{Timestamps: many(MaxTimestamps+1, 0)}, false},
		"a timestamp of 64 KiB":           {Documents{Timestamps: many(1, announce.MaxTimestampEnvelope)}, true},
		"one of 64 KiB and a byte":        {Documents{Timestamps: many(1, announce.MaxTimestampEnvelope+1)}, false},
	} {
		if _, err := parseDocuments(c.d.Encode()); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCatalogCutOff(t *testing.T) {
	whole := (&Documents{Announcements: [][]byte{[]byte("one")}}).Encode()
	for n := range whole {
		if _, err := parseDocuments(whole[:n:n]); err == nil {
			t.Errorf("the first %d of %d bytes are taken", n, len(whole))
		}
	}
	bare := bytes.TrimPrefix(whole[:len(whole)-recordHead-len(store.Digest{})], []byte(catalogMagic))
	sum := store.Sum(bare)
	if _, err := parseDocuments(append(bare, record(recordEnd, sum[:])...)); err == nil {
		t.Error("a catalog without its first line is taken")
	}
}

func TestPackCount(t *testing.T) {
	for n, want := range map[uint32]bool{0: false, 1: true, maxPackPieces: true, maxPackPieces + 1: false} {
		head := append([]byte(packMagic), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
		if _, err := packCount(head); (err == nil) != want {
			t.Errorf("%d pieces: %v", n, err)
		}
	}
}

// TestFewAreLookedAt: what is kept of a stick is bounded, however many files it has, and files that only begin well do no harm.
func TestFewAreLookedAt(t *testing.T) {
	p := newPublisher(t)
	r := p.publish("lessons", map[string]string{"a": "1"})
	dir := t.TempDir()
	p.export(dir, r)
	catalog := string((&Documents{}).Encode())
	for i := range 30 {
		write(t, filepath.Join(dir, Dir, fmt.Sprintf("c%02d", i)), catalog)
		write(t, filepath.Join(dir, Dir, fmt.Sprintf("r%02d", i)), "\x82 no root file")
		write(t, filepath.Join(dir, Dir, fmt.Sprintf("s%02d", i)), packMagic+"\x00\x00\x00\x00")
		write(t, filepath.Join(dir, Dir, fmt.Sprintf("t%02d", i)), catalog[:len(catalogMagic)+i%2])
	}
	st := open(t, dir)
	if len(st.Catalogs()) != maxCatalogs || len(st.RootFiles()) != maxRoots {
		t.Errorf("%d catalogs, %d root files", len(st.Catalogs()), len(st.RootFiles()))
	}
	if got := st.Problems(); got.Count != 30+1 || len(got.Texts) != maxProblems {
		t.Errorf("%d problems, %d in words", got.Count, len(got.Texts))
	}
	st.Close()
	p.export(dir, r) // takes none of them for a trust root
}

// TestCancelIsExact: one fetch cannot take back what another asked for.
func TestCancelIsExact(t *testing.T) {
	n := NewNeighbour(&Stick{}, "stick")
	a, b := &link{n, new(fetch.Session)}, &link{n, new(fetch.Session)}
	for _, l := range []*link{a, b} {
		l.Request([]fetch.Request{{ID: 1}, {ID: 2}})
	}
	a.Cancel([]uint64{2, 3})
	var left []string
	for _, w := range n.queue {
		left = append(left, fmt.Sprint(w.s == a.s, w.ID))
	}
	if want := []string{"true 1", "false 1", "false 2"}; !slices.Equal(left, want) {
		t.Errorf("left: %v, want %v", left, want)
	}
}
