package stick

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"satchel/fetch"
	"satchel/store"
)

func TestThereAndBack(t *testing.T) {
	p := newPublisher(t)
	r := p.publish("lessons", lessons(1))
	dir := t.TempDir()
	res := p.export(dir, r)
	if res.Written != res.Total || res.Here != 0 || res.Products != 1 {
		t.Errorf("exported %+v", res)
	}
	st := open(t, dir)
	if n := len(st.RootFiles()); n != 1 {
		t.Errorf("%d root files", n)
	}
	into := openStore(t)
	got, err := fetchFrom(t, into, r, st)
	if err != nil {
		t.Fatal(err)
	}
	if got.BytesFetched["stick 0"] != res.Total {
		t.Errorf("fetched %v of %d", got.BytesFetched, res.Total)
	}
	if bad, err := into.Verify(context.Background(), nil); err != nil || len(bad) > 0 {
		t.Errorf("%v %v", bad, err)
	}
	if p := st.Problems(); p.Count != 0 {
		t.Errorf("%v", p.Texts)
	}
}

// What is on the stick is not written again; of a new version only the chunks that differ are.
func TestOnlyTheDifference(t *testing.T) {
	p := newPublisher(t)
	dir := t.TempDir()
	one := p.publish("lessons", lessons(1))
	first := p.export(dir, one)
	before := listing(t, dir)
	if again := p.export(dir, one); again.Written != 0 || again.Here != first.Total || listing(t, dir) != before {
		t.Errorf("the second time %+v:\n%s\n%s", again, before, listing(t, dir))
	}
	two := p.publish("lessons", lessons(2))
	if res := p.export(dir, two); res.Written == 0 || res.Written > 600_000 || res.Written+res.Here != res.Total {
		t.Errorf("the next version: %+v", res)
	}
	st := open(t, dir)
	if n := len(st.Catalogs()); n != 1 {
		t.Errorf("%d catalogs", n)
	}
	d, err := st.Documents(st.Catalogs()[0])
	if err != nil || len(d.Announcements) != 1 {
		t.Errorf("%v, %d announcements", err, len(d.Announcements))
	}
	if _, err := fetchFrom(t, openStore(t), two, st); err != nil {
		t.Error(err)
	}
}

// Since leaves out what the receiver has.
func TestSince(t *testing.T) {
	p := newPublisher(t)
	one := p.publish("lessons", lessons(1))
	two := p.publish("lessons", lessons(2))
	full, rest := t.TempDir(), t.TempDir()
	p.export(full, one)
	c := p.config(rest, two)
	c.Releases[0].Since = one.Manifest
	res, err := Export(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if res.Written > 600_000 {
		t.Errorf("wrote %d", res.Written)
	}
	into := openStore(t)
	if _, err := fetchFrom(t, into, two, open(t, rest)); !errors.Is(err, context.Canceled) {
		t.Errorf("without the base: %v", err)
	}
	if _, err := fetchFrom(t, into, one, open(t, full)); err != nil {
		t.Fatal(err)
	}
	if got, err := fetchFrom(t, into, two, open(t, rest)); err != nil || got.BytesNeeded != 0 {
		t.Errorf("with the base: %v, %+v", err, got)
	}
}

// Two halves on two sticks make a whole.
func TestHalves(t *testing.T) {
	p := newPublisher(t)
	r := p.publish("lessons", lessons(1))
	a, b := t.TempDir(), t.TempDir()
	p.export(a, r)
	p.export(b, r)
	for i, dir := range []string{a, b} { // every second piece, and the others
		pack := glob(t, dir, "*.pack")[0]
		for k, at := range offsets(t, pack) {
			if k%2 == i {
				flip(t, pack, at)
			}
		}
	}
	sa, sb := open(t, a), open(t, b)
	got, err := fetchFrom(t, openStore(t), r, sa, sb)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.BytesFetched) != 2 || sa.Problems().Count == 0 || sb.Problems().Count == 0 {
		t.Errorf("%v, %d and %d problems", got.BytesFetched, sa.Problems().Count, sb.Problems().Count)
	}
}

// What is damaged on a stick is written to it again.
func TestExportRepairs(t *testing.T) {
	p := newPublisher(t)
	r := p.publish("lessons", lessons(1))
	dir := t.TempDir()
	p.export(dir, r)
	flip(t, glob(t, dir, "*.pack")[0], -1000)
	flip(t, glob(t, dir, "*.catalog")[0], 60)
	res := p.export(dir, r)
	if res.Damaged != 1 || res.Written == 0 || res.Written > store.MaxChunk {
		t.Errorf("%+v", res)
	}
	st := open(t, dir)
	if _, err := fetchFrom(t, openStore(t), r, st); err != nil {
		t.Error(err)
	}
	if _, err := st.Documents(st.Catalogs()[0]); err != nil {
		t.Error(err)
	}
}

// Names say nothing: upper case, 8.3, anything.
func TestNamesDoNotMatter(t *testing.T) {
	p := newPublisher(t)
	r := p.publish("lessons", lessons(1))
	dir := t.TempDir()
	p.export(dir, r)
	for i, name := range glob(t, dir, "*") {
		to := strings.ToUpper(filepath.Base(name))
		if i%2 == 0 {
			to = "A1B2C3~" + string(rune('0'+i)) + ".PAC"
		}
		if err := os.Rename(name, filepath.Join(filepath.Dir(name), to)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(dir, "satchel"), filepath.Join(dir, "SATCHEL")); err != nil {
		t.Fatal(err)
	}
	st := open(t, dir)
	if len(st.RootFiles()) != 1 || len(st.Catalogs()) != 1 {
		t.Errorf("%v %v", st.RootFiles(), st.Catalogs())
	}
	if _, err := fetchFrom(t, openStore(t), r, st); err != nil {
		t.Error(err)
	}
}

// Several homes share a stick: two of one publisher, one of another.
func TestSharedStick(t *testing.T) {
	p, q := newPublisher(t), newPublisher(t)
	dir := t.TempDir()
	maths, art := p.publish("maths", lessons(1)), p.publish("art", map[string]string{"a": "picture"})
	other := q.publish("maths", map[string]string{"a": "another maths"})
	p.export(dir, maths)
	theirs := q.export(dir, other)
	res := p.export(dir, art)
	if res.Products != 2 {
		t.Errorf("%+v", res)
	}
	st := open(t, dir)
	if len(st.RootFiles()) != 2 || len(st.Catalogs()) != 2 {
		t.Fatalf("%v %v", st.RootFiles(), st.Catalogs())
	}
	if _, err := os.Stat(theirs.Root); err != nil {
		t.Error(err)
	}
	for _, r := range []struct {
		*publisher
		want int
	}{{p, 2}, {q, 1}} {
		for _, c := range st.Catalogs() {
			d, err := st.Documents(c)
			if err != nil {
				t.Fatal(err)
			}
			if id := r.cat.RootID(); string(c.Root[:8]) == string(id[:]) && len(d.Announcements) != r.want {
				t.Errorf("%d announcements, want %d", len(d.Announcements), r.want)
			}
		}
	}
	if _, err := fetchFrom(t, openStore(t), maths, st); err != nil {
		t.Error(err)
	}
	if _, err := fetchFrom(t, openStore(t), other, st); err != nil {
		t.Error(err)
	}
}

// A stick that is exported to again and again does not fill up: it has at most about twice what is needed. What others have on
// it stays.
func TestStickDoesNotFillUp(t *testing.T) {
	p, q := newPublisher(t), newPublisher(t)
	dir := t.TempDir()
	other := q.publish("maths", map[string]string{"a": noise(9, 200_000)})
	art := p.publish("art", map[string]string{"a": noise(8, 100_000)})
	p.export(dir, art)
	q.export(dir, other)
	var size, need uint64
	removed := false
	for week := range 8 {
		files := map[string]string{"same": noise(1, 300_000)}
		for i := range 10 {
			files[fmt.Sprint(i)] = noise(100+i+10*week*(i%2), 30_000) // half of it changes
		}
		files["changing"] = noise(1000+week, 400_000)
		r := p.publish("lessons", files)
		before := size
		need = p.export(dir, r).Total
		if size = onStick(t, dir); size < before+400_000 && week > 0 {
			removed = true
		}
		st := open(t, dir)
		for _, r := range []fetch.Release{r, art, other} {
			if _, err := fetchFrom(t, openStore(t), r, st); err != nil {
				t.Fatalf("week %d, %s: %v", week, r.Product, err)
			}
		}
		if st.Problems().Count > 0 {
			t.Errorf("week %d: %v", week, st.Problems().Texts)
		}
		st.Close()
	}
	if most := 2*(need+300_000) + 100_000; size > most || !removed {
		t.Errorf("%d bytes on the stick, at most %d", size, most)
	}
}

func onStick(t *testing.T, dir string) (bytes uint64) {
	t.Helper()
	for _, f := range glob(t, dir, "*") {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		bytes += uint64(fi.Size())
	}
	return bytes
}

// A home that knows of a newer release and has not its content does not take the older one from the stick.
func TestNewsDoesNotDisplaceContent(t *testing.T) {
	p := newPublisher(t)
	dir := t.TempDir()
	one := p.publish("lessons", lessons(1))
	p.export(dir, one)
	two := p.publish("lessons", lessons(2))
	art := p.publish("art", map[string]string{"a": "1"})
	for i := range 3 { // whose own releases come and go
		p.export(dir, art)
		if seqs := p.announcedOn(dir); !slices.Equal(seqs, []uint64{uint64(i + 1), 2, 1}) {
			t.Errorf("announced: %v", seqs)
		}
		st := open(t, dir)
		if _, err := fetchFrom(t, openStore(t), one, st); err != nil {
			t.Error(err)
		}
		st.Close()
		art = p.publish("art", map[string]string{"a": noise(i, 1000)})
	}
	p.export(dir, two)
	if seqs := p.announcedOn(dir); !slices.Equal(seqs, []uint64{4, 2, 3}) { // of art 4 it has only news
		t.Errorf("announced: %v", seqs)
	}
}
