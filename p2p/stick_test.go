package p2p_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"satchel/announce"
	"satchel/fetch/stick"
	"satchel/p2p"
)

// primer is a tree with small files, an empty one, a link, and a large one that shares most chunks with the version before.
func primer(t *testing.T, version int) string {
	files := map[string]string{"README": fmt.Sprintf("primer %d\n", version), "empty": "", "hollow/": "", "unit/link": "->../README",
		"big": noise(1, 3<<20) + noise(100+version, 1000) + noise(2, 2<<20)}
	for i := range 100 {
		files[fmt.Sprintf("unit/%03d.txt", i)] = noise(1000+i, 100+97*i)
	}
	if version > 1 {
		files["unit/007.txt"] = noise(5000, 30_000)
	}
	return tree(t, files)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (l *laptop) export(dir string, products ...string) p2p.ExportResult {
	l.m.t.Helper()
	res, err := l.Export(context.Background(), p2p.ExportOptions{Dir: dir, Products: products}, nil)
	must(l.m.t, err)
	return res
}

func (l *laptop) imports(dir string) (p2p.ImportResult, error) {
	l.m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	res, err := l.Import(ctx, dir, nil)
	if ctx.Err() != nil {
		l.m.t.Fatalf("the import does not end: %+v", l.Status())
	}
	return res, err
}

// outcomes are those of an import, by product.
func outcomes(res p2p.ImportResult) string {
	m := map[string]string{}
	for _, p := range res.Products {
		m[p.Product] = p.Outcome
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, name+" "+m[name])
	}
	return strings.Join(out, ", ")
}

func (l *laptop) apply(product, want, image string) {
	l.m.t.Helper()
	_, err := l.Apply(context.Background(), product)
	must(l.m.t, err)
	sameTree(l.m.t, want, image)
}

// A release goes from a home to another that never saw a network, and on from there; the next time only the difference does.
func TestStickCarriesReleases(t *testing.T) {
	m := newMesh(t)
	pub, lap, mule := m.open(t.TempDir()), m.open(t.TempDir()), m.open(t.TempDir())
	usb, usb2, img := t.TempDir(), t.TempDir(), t.TempDir()
	v1, v2 := primer(t, 1), primer(t, 2)
	pub.publish("lessons", "1", v1)
	pub.publish("art", "1", tree(t, map[string]string{"a": "picture"}))
	first := pub.export(usb)
	if len(first.Releases) != 2 || first.Announcements != 2 || first.BytesWritten != first.BytesTotal {
		t.Errorf("exported %+v", first)
	}
	must(t, mule.Carry("lessons"))
	res, err := mule.imports(usb)
	if got := outcomes(res); err != nil || got != "art unwanted, lessons ready" || res.Announcements != 2 {
		t.Fatalf("%s: %v, %+v", got, err, res)
	}
	mule.export(usb2) // only lessons is whole there
	must(t, lap.Follow("lessons", img))
	res, err = lap.imports(usb2)
	if got := outcomes(res); err != nil || got != "art unwanted, lessons ready" {
		t.Fatalf("%s: %v", got, err)
	}
	lap.wait("lessons", 1, p2p.StateReady)
	lap.apply("lessons", v1, img)

	published := pub.publish("lessons", "2", v2)
	if res := pub.export(usb, "lessons"); res.BytesWritten > published.NewChunkBytes+published.ManifestSize+4096 {
		t.Errorf("wrote %d bytes for %d new ones", res.BytesWritten, published.NewChunkBytes)
	}
	res, err = lap.imports(usb)
	if got := outcomes(res); err != nil || got != "art unwanted, lessons ready" || res.BytesFetched > published.NewChunkBytes+published.ManifestSize+4096 {
		t.Fatalf("%s: %v, %+v", got, err, res)
	}
	sameTree(t, v1, img)
	lap.apply("lessons", v2, img)
	if res, err := lap.imports(usb); err != nil || outcomes(res) != "art unwanted, lessons here" || res.BytesFetched != 0 {
		t.Errorf("again: %v, %+v", err, res)
	}
}

func TestStickSince(t *testing.T) {
	m := newMesh(t)
	pub, lap, fresh := m.open(t.TempDir()), m.open(t.TempDir()), m.open(t.TempDir())
	full, rest := t.TempDir(), t.TempDir()
	pub.publish("lessons", "1", primer(t, 1))
	pub.export(full)
	published := pub.publish("lessons", "2", primer(t, 2))
	pub.publish("art", "1", tree(t, map[string]string{"a": "picture"}))
	for _, c := range []struct {
		options p2p.ExportOptions
		code    string
	}{
		{p2p.ExportOptions{Dir: rest, Since: 1}, p2p.CodeBadInput},
		{p2p.ExportOptions{Dir: rest, Since: 2, Products: []string{"lessons"}}, p2p.CodeBadInput},
		{p2p.ExportOptions{Dir: rest, Products: []string{"nothing"}}, p2p.CodeNotFound},
		{p2p.ExportOptions{Dir: "usb"}, p2p.CodeBadInput},
		{p2p.ExportOptions{Dir: rest + "/gone"}, p2p.CodeNotFound},
	} {
		if _, err := pub.Export(context.Background(), c.options, nil); p2p.CodeOf(err) != c.code || p2p.HintOf(err) == "" {
			t.Errorf("%+v: %v, code %q, want %q and a hint", c.options, err, p2p.CodeOf(err), c.code)
		}
	}
	res, err := pub.Export(context.Background(), p2p.ExportOptions{Dir: rest, Products: []string{"lessons"}, Since: 1}, nil)
	if err != nil || res.BytesWritten > published.NewChunkBytes+published.ManifestSize+4096 {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, l := range []*laptop{lap, fresh} {
		must(t, l.Follow("lessons", t.TempDir()))
	}
	if _, err := lap.imports(full); err != nil {
		t.Fatal(err)
	}
	if res, err := lap.imports(rest); err != nil || outcomes(res) != "art unwanted, lessons ready" {
		t.Errorf("with release 1: %v, %s", err, outcomes(res))
	}
	part, err := fresh.imports(rest)
	if p2p.CodeOf(err) != p2p.CodeNotReady || outcomes(part) != "art unwanted, lessons incomplete" {
		t.Errorf("without it: %v, %s", err, outcomes(part))
	}
	if _, err := fresh.Apply(context.Background(), "lessons"); p2p.CodeOf(err) != p2p.CodeNotReady {
		t.Errorf("applied: %v", err)
	}
	if res, err := fresh.imports(full); p2p.CodeOf(err) != p2p.CodeOlder || outcomes(res) != "lessons older" {
		t.Errorf("the older stick: %v, %s", err, outcomes(res))
	}
	// The two sticks in one make it complete.
	res, err = pub.Export(context.Background(), p2p.ExportOptions{Dir: full, Products: []string{"lessons"}, Since: 1}, nil)
	must(t, err)
	if res, err := fresh.imports(full); err != nil || outcomes(res) != "art unwanted, lessons ready" {
		t.Errorf("with both: %v, %s", err, outcomes(res))
	}
}

// spoil flips a byte in every second piece of the packs, or in the others.
func spoil(t *testing.T, usb string, which int) {
	t.Helper()
	packs, err := filepath.Glob(usb + "/satchel/*.pack")
	must(t, err)
	if len(packs) == 0 {
		t.Fatal("no pack")
	}
	for _, pack := range packs {
		b, err := os.ReadFile(pack)
		must(t, err)
		n := int(b[18])<<8 | int(b[19])
		at := 20 + 36*n + 32
		for i := range n {
			e := b[20+36*i:]
			if i%2 == which {
				b[at] ^= 1
			}
			at += int(e[0])<<24 | int(e[1])<<16 | int(e[2])<<8 | int(e[3])
		}
		must(t, os.WriteFile(pack, b, 0o644))
	}
}

// Half from a stick, half by air, in one fetch; and the neighbour gets its missing half in return.
func TestStickAndAir(t *testing.T) {
	m := newMesh(t)
	pub := m.open(t.TempDir())
	one, other, img := t.TempDir(), t.TempDir(), t.TempDir()
	want := primer(t, 1)
	pub.publish("lessons", "1", want)
	pub.export(one)
	pub.export(other)
	spoil(t, one, 0)
	spoil(t, other, 1)
	near := m.open(t.TempDir())
	must(t, near.Carry("lessons"))
	rest := other
	if res, err := near.imports(one); p2p.CodeOf(err) != p2p.CodeCorrupt || res.Products[0].BytesNeeded == 0 {
		rest = one // the manifest is among its bad pieces: it has nothing to give alone
		if res, err := near.imports(other); p2p.CodeOf(err) != p2p.CodeCorrupt || res.Products[0].BytesNeeded == 0 {
			t.Fatalf("%v, %+v", err, res)
		}
	}
	near.run()
	lap := m.open(t.TempDir(), near.addr())
	must(t, lap.Follow("lessons", img))
	lap.run()
	lap.until("what the neighbour has", func(s p2p.Status) bool {
		return len(s.Products) == 1 && s.Products[0].Fetch != nil && s.Products[0].Fetch.BytesFetched > 0
	})
	res, err := lap.imports(rest)
	if err != nil {
		t.Fatalf("%v, %+v", err, res)
	}
	lap.apply("lessons", want, img)
	from := lap.Status().Products[0].Fetch.BytesBySource
	if from["stick:"+rest] == 0 || from[near.ID()] == 0 || len(from) != 2 {
		t.Errorf("fetched from %v", from)
	}
	near.wait("lessons", 1, p2p.StateReady)
}

// state is what a home believes, holds and shows, as far as a stick could change it.
func (l *laptop) state(image string) string {
	l.m.t.Helper()
	s := l.Status()
	out := fmt.Sprintf("root %d, catalog %s\n", s.Root.Version, s.Node.Catalog)
	for _, p := range s.Products {
		out += fmt.Sprintf("%s %s", p.Product, p.State)
		for _, r := range []*p2p.ReleaseStatus{p.Newest, p.Ready, p.Live, p.Previous} {
			if r != nil {
				out += fmt.Sprintf(" %d/%d %s", r.Epoch, r.Seq, r.Manifest)
			}
		}
		out += "\n"
	}
	return out + describe(l.m.t, image)
}

// Hostile sticks by the numbers of the list. The home is on release 2 of lessons, and follows nothing else.
func TestHostileSticks(t *testing.T) {
	m := newMesh(t)
	pub := m.open(t.TempDir())
	old, current, next := t.TempDir(), t.TempDir(), t.TempDir()
	pub.publish("lessons", "1", primer(t, 1))
	pub.export(old)
	second := primer(t, 2)
	pub.publish("lessons", "2", second)
	pub.export(current)
	third := t.TempDir()
	must(t, os.CopyFS(third, os.DirFS(second)))
	must(t, os.WriteFile(filepath.Join(third, "new"), []byte("new in version 3"), 0o644))
	must(t, os.WriteFile(filepath.Join(third, "large"), []byte(noise(77, 1<<20)), 0o644))
	pub.publish("lessons", "3", third)
	pub.publish("art", "1", tree(t, map[string]string{"a": "picture"}))
	pub.export(next)
	stranger := newMesh(t).open(t.TempDir())
	_, env := stranger.sign("lessons", "4", tree(t, map[string]string{"a": "evil"}), 4)
	must(t, stranger.Announce(env))
	forged := t.TempDir()
	stranger.export(forged)

	for _, c := range []struct {
		name    string
		from    string // the stick that is made hostile
		do      func(t *testing.T, usb string)
		code    string // of the error; empty: none
		text    string // in the error
		outcome string
		problem string // in the problems
		changes bool   // release 3 is known, or here, afterwards
	}{
		{name: "70 every piece has changed since it was written", from: next, do: func(t *testing.T, usb string) { spoil(t, usb, 0); spoil(t, usb, 1) },
			code: p2p.CodeCorrupt, text: "a part of lessons is damaged", outcome: "art unwanted, lessons incomplete", problem: "damaged on the stick", changes: true},
		{name: "71 fifos, links and devices", from: next, do: func(t *testing.T, usb string) {
			for i, f := range files(t, usb, "*") {
				must(t, os.Remove(f))
				switch i % 3 {
				case 0:
					must(t, syscall.Mkfifo(f, 0o666))
				case 1:
					must(t, os.Symlink("/etc/shadow", f))
				default:
					if err := syscall.Mknod(f, syscall.S_IFCHR|0o666, 1<<8|5); err != nil {
						must(t, os.Mkdir(f, 0o755)) // only root makes devices
					}
				}
			}
		}, code: p2p.CodeCorrupt, text: "the stick is damaged", problem: "not a regular file"},
		{name: "71 the directory is a link", from: next, do: func(t *testing.T, usb string) {
			must(t, os.Rename(usb+"/satchel", usb+"/real"))
			must(t, os.Symlink("real", usb+"/satchel"))
		}, code: p2p.CodeNotFound, text: "no satchel directory"},
		{name: "72 a million files", from: next, do: func(t *testing.T, usb string) {
			for i := range 16_384 {
				must(t, os.WriteFile(fmt.Sprintf("%s/satchel/%d", usb, i), nil, 0o644))
			}
		}, code: p2p.CodeRefused, text: "more than a stick made by satchel holds"},
		{name: "72 a million documents", from: next, do: func(t *testing.T, usb string) {
			b, err := os.ReadFile(files(t, usb, "*.catalog")[0])
			must(t, err)
			must(t, os.WriteFile(files(t, usb, "*.catalog")[0], append(b[:44:44], bytes.Repeat([]byte{2, 0, 0, 0, 0}, 1_000_000)...), 0o644))
		}, code: p2p.CodeCorrupt, text: "the stick is damaged", problem: "announcements"},
		{name: "72 false documents without end", from: next, do: func(t *testing.T, usb string) {
			rewrite(t, usb, func(d *stick.Documents) {
				env := d.Announcements[0]
				d.Announcements = nil
				for i := range 5000 {
					bad := bytes.Clone(env)
					bad[len(bad)-1-i%60] ^= byte(1 + i/60)
					d.Announcements = append(d.Announcements, bad)
				}
				d.Announcements = append(d.Announcements, env) // so far nobody reads
			})
		}, code: p2p.CodeCorrupt, text: "the stick is damaged", problem: "documents in the catalog are false"},
		{name: "73 pulled out early: only a part is there", from: next, do: func(t *testing.T, usb string) {
			for _, f := range files(t, usb, "*.pack") {
				fi, err := os.Stat(f)
				must(t, err)
				must(t, os.Truncate(f, fi.Size()-1_200_000))
			}
		}, code: p2p.CodeCorrupt, outcome: "art unwanted, lessons incomplete", problem: "is cut off", changes: true},
		{name: "73 pulled out before the catalog", from: next, do: func(t *testing.T, usb string) {
			must(t, os.Remove(files(t, usb, "*.catalog")[0]))
		}, code: p2p.CodeNotFound, text: "no release that this home can believe"},
		{name: "74 an older release", from: old, code: p2p.CodeOlder, text: "older than what is known here", outcome: "lessons older"},
		{name: "74 the same release", from: current, outcome: "lessons here"},
		{name: "75 a self-made root", from: forged, code: p2p.CodeRefused, text: "does not belong to the one that is trusted here"},
		{name: "75 a self-made root and our documents", from: next, do: func(t *testing.T, usb string) {
			b, err := os.ReadFile(files(t, forged, "*.root")[0])
			must(t, err)
			must(t, os.WriteFile(files(t, usb, "*.root")[0], b, 0o644))
		}, code: p2p.CodeRefused, text: "does not belong to the one that is trusted here"},
		{name: "75 our root and a stranger's documents", from: forged, do: func(t *testing.T, usb string) {
			st, err := stick.Open(next)
			must(t, err)
			root := st.Catalogs()[0].Root
			st.Close()
			b, err := os.ReadFile(files(t, next, "*.root")[0])
			must(t, err)
			must(t, os.WriteFile(files(t, usb, "*.root")[0], b, 0o644))
			rewrite(t, usb, func(d *stick.Documents) { d.Root = root })
		}, code: p2p.CodeCorrupt, text: "the stick is damaged", problem: "documents in the catalog are false"},
		{name: "76 names in upper case and 8.3", from: next, do: func(t *testing.T, usb string) {
			for i, f := range files(t, usb, "*") {
				must(t, os.Rename(f, fmt.Sprintf("%s/satchel/%c1B2C3~1.%s", usb, 'A'+i, strings.ToUpper(filepath.Ext(f)[1:]))))
			}
			must(t, os.Rename(usb+"/satchel", usb+"/SATCHEL"))
		}, outcome: "art unwanted, lessons ready", changes: true},
		{name: "77 good and bad pieces", from: next, do: func(t *testing.T, usb string) { spoil(t, usb, 1) },
			code: p2p.CodeCorrupt, text: "a part of lessons is damaged", outcome: "art unwanted, lessons incomplete", problem: "damaged on the stick", changes: true},
		{name: "77 a bad byte in the catalog", from: next, do: func(t *testing.T, usb string) {
			f := files(t, usb, "*.catalog")[0]
			b, err := os.ReadFile(f)
			must(t, err)
			must(t, os.WriteFile(f, flip(b, 100), 0o644))
		}, code: p2p.CodeCorrupt, text: "the stick is damaged", problem: "its checksum is wrong"},
		{name: "78 scripts", from: current, do: func(t *testing.T, usb string) {
			for _, f := range []string{"autorun.inf", "satchel/autorun.sh", "satchel/install"} {
				must(t, os.WriteFile(filepath.Join(usb, f), []byte("#!/bin/sh\ntouch "+usb+"/ran\n"), 0o777))
			}
		}, outcome: "lessons here"},
		{name: "not a stick", from: t.TempDir(), code: p2p.CodeNotFound, text: "no satchel directory"},
		{name: "a directory that is not there", from: "", code: p2p.CodeNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := &mesh{t, m.key, m.root}
			lap, img := m.open(t.TempDir()), t.TempDir()
			must(t, lap.Follow("lessons", img))
			if _, err := lap.imports(current); err != nil {
				t.Fatal(err)
			}
			lap.apply("lessons", second, img)
			usb := filepath.Join(t.TempDir(), "usb")
			if c.from != "" {
				must(t, os.CopyFS(usb, os.DirFS(c.from)))
			}
			if c.do != nil {
				c.do(t, usb)
			}
			before := lap.state(img)
			res, err := lap.imports(usb)
			if p2p.CodeOf(err) != c.code || err != nil && c.code == "" {
				t.Errorf("error %v, code %q, want %q", err, p2p.CodeOf(err), c.code)
			}
			if err != nil && (!strings.Contains(err.Error(), c.text) || p2p.HintOf(err) == "") {
				t.Errorf("error %q, hint %q, want %q", err, p2p.HintOf(err), c.text)
			}
			if got := outcomes(res); got != c.outcome {
				t.Errorf("outcomes %q, want %q", got, c.outcome)
			}
			if got := strings.Join(res.Problems, "\n"); c.problem == "" && got != "" || !strings.Contains(got, c.problem) {
				t.Errorf("problems %q, want %q", got, c.problem)
			}
			if after := lap.state(img); (after != before) != c.changes {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
			sameTree(t, second, img)
			if _, err := os.Lstat(usb + "/ran"); err == nil {
				t.Error("a script ran")
			}
			if bad, err := lap.Store().Verify(context.Background(), nil); err != nil || len(bad) > 0 {
				t.Errorf("bad content in the store: %v, %v", bad, err)
			}
			// Whatever it was, a good stick helps afterwards.
			if res, err := lap.imports(next); err != nil || !regexp.MustCompile("lessons (ready|here)").MatchString(outcomes(res)) {
				t.Errorf("afterwards: %v, %s", err, outcomes(res))
			}
			lap.apply("lessons", third, img)
		})
	}
}

func files(t *testing.T, usb, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(usb + "/satchel/" + pattern)
	must(t, err)
	if len(found) == 0 {
		t.Fatalf("no %s on the stick", pattern)
	}
	return found
}

// rewrite changes the catalog of a stick, with a good checksum.
func rewrite(t *testing.T, usb string, change func(*stick.Documents)) {
	t.Helper()
	st, err := stick.Open(usb)
	must(t, err)
	defer st.Close()
	c := st.Catalogs()[0]
	d, err := st.Documents(c)
	must(t, err)
	change(d)
	must(t, os.WriteFile(filepath.Join(st.Path(), c.Name), d.Encode(), 0o644))
}

// What another publisher has on the stick disturbs nobody.
func TestStickOfTwoPublishers(t *testing.T) {
	m, other := newMesh(t), newMesh(t)
	usb := t.TempDir()
	for _, m := range []*mesh{m, other} {
		for _, name := range []string{"lessons", "art"} {
			pub := m.open(t.TempDir())
			pub.publish(name, "1", tree(t, map[string]string{"a": name + noise(len(usb), 1000)}))
			pub.export(usb)
		}
	}
	for _, m := range []*mesh{m, other} {
		lap := m.open(t.TempDir())
		must(t, lap.Carry("*"))
		if res, err := lap.imports(usb); err != nil || res.ProblemCount > 0 || outcomes(res) != "art ready, lessons ready" {
			t.Errorf("%v, %+v", err, res)
		}
	}
}

// A home that trusts nobody is told which file to check, and takes nothing.
func TestStickOnFreshHome(t *testing.T) {
	m := newMesh(t)
	pub := m.open(t.TempDir())
	usb := t.TempDir()
	pub.publish("lessons", "1", tree(t, map[string]string{"a": "1"}))
	root := pub.export(usb).Root
	n, err := p2p.Open(p2p.Config{Home: t.TempDir()})
	must(t, err)
	defer n.Close()
	must(t, n.Carry("*"))
	_, err = n.Import(context.Background(), usb, nil)
	if p2p.CodeOf(err) != p2p.CodeNoRoot || !strings.Contains(err.Error(), root) || !strings.Contains(p2p.HintOf(err), "satchel trust "+root) {
		t.Errorf("%v, hint %q", err, p2p.HintOf(err))
	}
	if s := n.Status(); len(s.Products) != 0 || s.Root.Version != 0 {
		t.Errorf("it believes %+v", s)
	}
	b, err := os.ReadFile(root)
	must(t, err)
	must(t, n.Trust(b, false))
	if res, err := n.Import(context.Background(), usb, nil); err != nil || outcomes(res) != "lessons ready" {
		t.Errorf("%v, %+v", err, res)
	}
	if _, err := n.Export(context.Background(), p2p.ExportOptions{Dir: usb}, nil); err != nil {
		t.Error(err)
	}
}

// Rotated roots, evidence and timestamps travel on sticks.
func TestStickBringsDocuments(t *testing.T) {
	m := newMesh(t)
	pub, lap := m.open(t.TempDir()), m.open(t.TempDir())
	usb := t.TempDir()
	must(t, lap.Carry("*"))
	pub.publish("lessons", "1", tree(t, map[string]string{"a": "1"}))
	must(t, pub.Trust(rootOf(t, m.key, 2), false))
	pub.publish("lessons", "2", tree(t, map[string]string{"a": "2"}))
	pub.publish("twice", "1", tree(t, map[string]string{"a": "1"}))
	_, other := pub.sign("twice", "1", tree(t, map[string]string{"a": "2"}), 1)
	if err := pub.Announce(other); p2p.CodeOf(err) != p2p.CodeEquivocal {
		t.Fatal(err)
	}
	stamp, err := (&announce.Timestamp{RootVer: 2, Issued: 1_800_000_000, Heads: []announce.TimestampHead{{Product: "lessons", Epoch: 1, Seq: 2}}}).Sign(m.key)
	must(t, err)
	must(t, pub.AddTimestamp(stamp))
	pub.export(usb)
	res, err := lap.imports(usb)
	if err != nil || res.Roots != 1 || res.Timestamps != 1 || outcomes(res) != "lessons ready, twice refused" {
		t.Errorf("%v, %+v", err, res)
	}
	if a, b := pub.Status().Node.Catalog, lap.Status().Node.Catalog; a != b {
		t.Errorf("catalogs %s and %s", a, b)
	}
	if res, err := lap.imports(usb); err != nil || res.Roots+res.Announcements+res.Timestamps != 0 {
		t.Errorf("again: %v, %+v", err, res)
	}
}

// An import that is ended goes on the next time from where it was.
func TestImportGoesOn(t *testing.T) {
	m := newMesh(t)
	pub, lap := m.open(t.TempDir()), m.open(t.TempDir())
	usb, img := t.TempDir(), t.TempDir()
	want := tree(t, map[string]string{"a": noise(1, 60<<20), "b": noise(2, 60<<20)}) // much: it must not be over before it can be ended
	pub.publish("lessons", "1", want)
	total := pub.export(usb).BytesTotal
	must(t, lap.Follow("lessons", img))
	ctx, cancel := context.WithCancel(context.Background())
	first, err := lap.Import(ctx, usb, func(p p2p.StickProgress) {
		if p.Done > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || first.BytesFetched == 0 {
		t.Fatalf("%v, %+v", err, first)
	}
	if s := lap.Status().Products[0]; s.State != p2p.StateKnown && s.State != p2p.StateFetching || s.Ready != nil {
		t.Errorf("after the end of the import: %+v", s)
	}
	second, err := lap.imports(usb)
	if err != nil || first.BytesFetched+second.BytesFetched > total+total/10 {
		t.Errorf("%v: %d and %d of %d bytes", err, first.BytesFetched, second.BytesFetched, total)
	}
	lap.apply("lessons", want, img)
}

// A node that runs, and fetches the same release without a neighbour who has it, gets it from a stick; and two imports of one stick are
// one too many.
func TestImportIntoRunningNode(t *testing.T) {
	m := newMesh(t)
	pub := m.open(t.TempDir())
	usb, img := t.TempDir(), t.TempDir()
	want := primer(t, 1)
	pub.publish("lessons", "1", want)
	pub.export(usb)
	near := m.open(t.TempDir()) // knows of it, and has nothing
	if _, err := near.imports(usb); p2p.CodeOf(err) != p2p.CodeNotFound {
		t.Fatal(err)
	}
	near.run()
	lap := m.open(t.TempDir(), near.addr())
	must(t, lap.Follow("lessons", img))
	lap.run()
	lap.until("a fetch", func(s p2p.Status) bool { return len(s.Products) == 1 && s.Products[0].State == p2p.StateFetching })
	end := make(chan error, 1)
	var once bool
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	res, err := lap.Import(ctx, usb, func(p p2p.StickProgress) {
		if !once {
			once = true
			_, err := lap.Import(ctx, usb, nil)
			end <- err
		}
	})
	if err != nil || outcomes(res) != "lessons ready" {
		t.Fatalf("%v, %+v", err, res)
	}
	if err := <-end; p2p.CodeOf(err) != p2p.CodeConflict {
		t.Errorf("the second import: %v", err)
	}
	lap.apply("lessons", want, img)
}

// A full disk ends an import with advice; with room it goes on.
func TestImportDiskFull(t *testing.T) {
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=12m"); err != nil {
		t.Skip("SKIPPED: mounting a small tmpfs needs root")
	}
	t.Cleanup(func() { syscall.Unmount(small, syscall.MNT_DETACH) })
	m := newMesh(t)
	pub := m.open(t.TempDir())
	usb, img := t.TempDir(), t.TempDir()
	want := tree(t, map[string]string{"a": noise(1, 20<<20)})
	pub.publish("lessons", "1", want)
	pub.export(usb)
	lap := m.open(filepath.Join(small, "home"))
	must(t, lap.Follow("lessons", img))
	res, err := lap.imports(usb)
	if p2p.CodeOf(err) != p2p.CodeNoSpace || p2p.HintOf(err) == "" || outcomes(res) != "lessons failed" {
		t.Errorf("%v, %+v", err, res)
	}
	if _, err := lap.Apply(context.Background(), "lessons"); err == nil {
		t.Error("applied what is not whole")
	}
	must(t, syscall.Mount("tmpfs", small, "tmpfs", syscall.MS_REMOUNT, "size=100m"))
	if _, err := lap.imports(usb); err != nil {
		t.Fatal(err)
	}
	lap.apply("lessons", want, img)
	lap.close()
}

// A stick's chain of roots may begin later than ours: with the next version it goes on, with a gap it cannot.
func TestStickOfAYoungerHome(t *testing.T) {
	m := newMesh(t)
	for version, want := range map[uint64]string{2: "", 3: p2p.CodeRefused} {
		young := (&mesh{t, m.key, rootOf(t, m.key, version)}).open(t.TempDir())
		young.publish("lessons", "1", tree(t, map[string]string{"a": "1"}))
		usb := t.TempDir()
		young.export(usb)
		lap := m.open(t.TempDir())
		must(t, lap.Carry("lessons"))
		before := lap.Status().Node.Catalog
		res, err := lap.imports(usb)
		if p2p.CodeOf(err) != want || err == nil && (res.Roots != 1 || outcomes(res) != "lessons ready") {
			t.Errorf("root version %d: %v, %+v", version, err, res)
		}
		if err != nil && (!strings.Contains(err.Error(), "begins with version 3, version 1 is trusted here") || lap.Status().Node.Catalog != before) {
			t.Errorf("root version %d: %v", version, err)
		}
	}
}

// That the root keys signed two roots of one version is learnt, and kept.
func TestStickTellsOfRivalRoots(t *testing.T) {
	m := newMesh(t)
	other := rootWith(t, m.key, 2, "other.*")
	lap, pub := m.open(t.TempDir()), m.open(t.TempDir())
	must(t, pub.Trust(rootOf(t, m.key, 2), false))
	pub.publish("lessons", "1", tree(t, map[string]string{"a": "1"}))
	usb := t.TempDir()
	pub.export(usb)
	must(t, lap.Trust(other, false))
	must(t, lap.Carry("*"))
	if res, err := lap.imports(usb); err == nil || res.Roots != 0 {
		t.Errorf("%v, %+v", err, res)
	}
	if s := lap.Status(); !s.Root.Rival || s.Root.Version != 2 {
		t.Errorf("%+v", s.Root)
	}
	home := lap.home
	lap.close()
	again, err := p2p.Open(p2p.Config{Home: home})
	must(t, err)
	defer again.Close()
	if s := again.Status(); !s.Root.Rival {
		t.Errorf("after a restart: %+v", s.Root)
	}
}

func rootWith(t *testing.T, key announce.PrivateKey, version uint64, pattern string) []byte {
	t.Helper()
	id := []announce.KeyID{key.Public().ID()}
	role := announce.RoleRule{Keys: id, Threshold: 1}
	env, err := (&announce.Root{Version: version, Keys: []announce.PublicKey{key.Public()}, Roles: map[announce.Role]announce.RoleRule{announce.RoleRoot: role},
		Products: []announce.ProductRule{{Pattern: pattern, Epoch: 1, Keys: id, Threshold: 1, Class: announce.ClassContent}}}).Sign(key)
	must(t, err)
	return env
}
