package p2p

import (
	"slices"
	"strings"
	"testing"
	"time"

	"satchel/store/image"
)

func TestRoom(t *testing.T) {
	const mb = 1_000_000
	for _, c := range []struct {
		name string
		r    room
		n    need
		want string // in the error; empty: there is room
	}{
		{"enough", room{free: 200 * mb, size: 10_000 * mb, inodes: 100, counted: true}, need{100 * mb, 100}, ""},
		{"the margin", room{free: 210 * mb, size: 1000 * mb}, need{150 * mb, 1}, "needs 165 MB on the disk of /d, and 210 MB are free, of which 50.0 MB stay free"},
		{"what stays free", room{free: 100 * mb, size: 10_000 * mb}, need{50 * mb, 1}, "of which 67.1 MB stay free"},
		{"a small disk", room{free: 11 * mb, size: 12 * mb}, need{9 * mb, 1}, ""},
		{"less than stays free", room{free: mb, size: 10_000 * mb}, need{1, 1}, "1.00 MB are free, of which 1.00 MB stay free"},
		{"nothing is needed", room{size: mb}, need{}, ""},
		{"inodes", room{free: 200 * mb, size: 1000 * mb, inodes: 99, counted: true}, need{mb, 100}, "needs 100 files on the disk of /d, and it can hold 99 more"},
		{"inodes that are not counted", room{free: 200 * mb, size: 1000 * mb}, need{mb, 100}, ""},
	} {
		err := c.r.check("a 1", "/d", c.n)
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		case err != nil && (CodeOf(err) != CodeNoSpace || HintOf(err) == ""):
			t.Errorf("%s: code %q, hint %q", c.name, CodeOf(err), HintOf(err))
		}
	}
}

// The three rules of an attach: what is older is updated, nothing goes down, and bookkeeping does not count.
func TestInventoriesCompared(t *testing.T) {
	rel := func(product string, epoch, seq uint64) image.Release {
		return image.Release{Product: product, Epoch: epoch, Seq: seq, Version: "v"}
	}
	records := func(product string) bool { return product == "records" }
	here := takeInventory([]image.Release{rel("os", 1, 5), rel("lessons", 2, 1), rel("records", 1, 1)}, []string{"124393-02", "812345-01", "912345-01"}, records)
	for _, c := range []struct {
		name     string
		releases []image.Release
		patches  []string
		down     []string
	}{
		{"older", []image.Release{rel("os", 1, 4), rel("lessons", 1, 99)}, []string{"124393-01"}, nil},
		{"equal", []image.Release{rel("os", 1, 5)}, []string{"124393-02", "912345-01"}, nil},
		{"a higher seq", []image.Release{rel("os", 1, 6), rel("lessons", 1, 1)}, nil, []string{"os v (epoch 1, seq 6; here epoch 1, seq 5)"}},
		{"a higher epoch", []image.Release{rel("lessons", 3, 1)}, nil, []string{"lessons v (epoch 3, seq 1; here epoch 2, seq 1)"}},
		{"another product", []image.Release{rel("games", 1, 1)}, nil, []string{"games v (no release of it is known here)"}},
		{"a patch", nil, []string{"124393-03"}, []string{"patch 124393-03 (here -02)"}},
		{"a patch that is gone", nil, []string{"100000-01"}, []string{"patch 100000-01 (not in what is here)"}},
		{"another vendor's patch", nil, []string{"912345-02"}, []string{"patch 912345-02 (here -01)"}},
		{"the highest revision counts", nil, []string{"124393-01", "124393-03", "124393-02"}, []string{"patch 124393-03 (here -02)"}},
		{"special patches", nil, []string{"812345-09", "899999-99"}, nil},
		{"bookkeeping", []image.Release{rel("records", 9, 9)}, nil, nil},
		{"all of it", []image.Release{rel("os", 2, 1), rel("records", 2, 1)}, []string{"100000-01", "800000-01"},
			[]string{"os v (epoch 2, seq 1; here epoch 1, seq 5)", "patch 100000-01 (not in what is here)"}},
	} {
		if got := takeInventory(c.releases, c.patches, records).down(here); !slices.Equal(got, c.down) {
			t.Errorf("%s: %q, want %q", c.name, got, c.down)
		}
	}
}

func TestTrouble(t *testing.T) {
	var tr trouble
	if tr.waiting("a") {
		t.Error("waits without trouble")
	}
	last := time.Duration(0)
	for range 12 {
		tr.note(errNoRoot(), "a")
		if tr.patience <= last && tr.patience != maxRetry {
			t.Errorf("%v after %v", tr.patience, last)
		}
		last = tr.patience
	}
	if last != maxRetry || !tr.waiting("a") || tr.waiting("b") {
		t.Errorf("%+v", tr)
	}
	tr.about = ""
	if !tr.waiting("b") {
		t.Error("other work goes on when all of it is in trouble")
	}
	if tr.calm(); tr.err != nil || tr.waiting("a") {
		t.Error("not calm")
	}
}
