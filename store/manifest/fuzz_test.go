package manifest_test

import (
	"bytes"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"
	"satchel/store/manifest"
)

func FuzzParse(f *testing.F) {
	for _, set := range []map[string]vector{vectors(f), policyVectors(f)} {
		for _, v := range set {
			f.Add(v.data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := manifest.Parse(data)
		if err != nil {
			if m != nil {
				t.Fatal("an error and a manifest")
			}
			return
		}
		again, err := m.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("printing again gives %x, %v", again, err)
		}
		seen := map[string]manifest.Type{}
		for _, e := range m.Entries {
			parent := filepath.Dir(e.Path)
			if typ, ok := seen[parent]; !filepath.IsLocal(e.Path) || filepath.Clean(e.Path) != e.Path || parent != "." && (!ok || typ != manifest.Dir) {
				t.Fatalf("entry %q is not safe to lay down", e.Path)
			}
			seen[e.Path] = e.Type
		}
		judged(t, m)
	})
}

// FuzzCheck takes lines as entries does.
func FuzzCheck(f *testing.F) {
	for _, p := range madePolicies() {
		f.Add(strings.Join(p.lines, "\n"))
	}
	f.Fuzz(func(t *testing.T, text string) {
		m := &manifest.Manifest{Header: header, Entries: entries(strings.Split(text, "\n")...)}
		if _, err := m.Encode(); err == nil {
			judged(t, m)
		}
	})
}

// judged compares Check, under every policy, with the slow judge below.
func judged(t *testing.T, m *manifest.Manifest) {
	if len(m.Entries) > 1000 {
		return // the judge is quadratic
	}
	want := judge(m)
	for _, p := range policies() {
		err := m.Check(p)
		if again := m.Check(p); (err == nil) != (again == nil) || err != nil && again.Error() != err.Error() {
			t.Fatalf("%v, and then %v", err, again)
		}
		refused := 0
		for _, e := range want {
			if !has(p, e.needs()) {
				refused++
			}
		}
		got := 0
		if e, ok := err.(*manifest.PolicyError); ok {
			got = e.Entries
		}
		// What is not ASCII the judge sees only in part.
		if got < refused || got > refused && !slices.ContainsFunc(m.Entries, notASCII) {
			t.Fatalf("%+v: Check refuses %d entries, the judge %d: %v\n%+v", p, got, refused, err, want)
		}
	}
}

func notASCII(e manifest.Entry) bool {
	return strings.IndexFunc(e.Path, func(r rune) bool { return r > 127 }) >= 0
}

// fault is what the judge finds wrong with an entry.
type fault struct{ setuid, names, linkOut, run, never bool }

func (f fault) needs() string {
	var words []string
	for word, is := range map[string]bool{"setuid": f.setuid, "names": f.names, "link-out": f.linkOut, "run": f.run, "never": f.never} {
		if is {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

var (
	deviceName = regexp.MustCompile(`^(?i:con|prn|aux|nul|(com|lpt)([1-9]|¹|²|³)) *([.:].*)?$`)
	aliasName  = regexp.MustCompile(`^[^ .~]+~[0-9]+(\.[^ .]{0,3})?$`)
	endOfName  = regexp.MustCompile(`[. ]$`)
)

// judge is Check, written another way: with maps and strings, one link at a time as a kernel follows it.
func judge(m *manifest.Manifest) []fault {
	links := map[string]string{}
	for _, e := range m.Entries {
		if e.Type == manifest.Symlink {
			links[e.Path] = e.Link
		}
	}
	var all []fault
	for i, e := range m.Entries {
		var f fault
		if e.Type == manifest.Symlink {
			f.linkOut, f.never = open(links, e.Path)
		} else {
			f.setuid = e.Mode&^0o775 != 0
		}
		name := path.Base(e.Path)
		base, _, _ := strings.Cut(name, ".")
		f.names = strings.Contains(name, `\`) || deviceName.MatchString(name) || endOfName.MatchString(name) || norm.NFC.String(name) != name ||
			aliasName.MatchString(name) && len(base) <= 8 && !notASCII(e)
		for _, o := range m.Entries[:i] {
			f.names = f.names || path.Dir(o.Path) == path.Dir(e.Path) && strings.EqualFold(norm.NFD.String(path.Base(o.Path)), norm.NFD.String(name))
		}
		f.byTerms(&m.Terms, &e)
		all = append(all, f)
	}
	if h := m.Terms.Helper; h != "" && !slices.ContainsFunc(m.Entries, func(e manifest.Entry) bool { return e.Path == h }) {
		all = append(all, fault{never: true})
	}
	return all
}

// byTerms says what the terms ask of an entry.
func (f *fault) byTerms(t *manifest.Terms, e *manifest.Entry) {
	onWay := func(p string) bool { return strings.HasPrefix(p, e.Path+"/") }
	if e.Type != manifest.Dir {
		f.never = f.never || slices.ContainsFunc(t.Patches, func(id string) bool { return id[0] == '8' }) || slices.Contains(t.State, e.Path) ||
			slices.ContainsFunc(t.State, onWay) || slices.ContainsFunc(t.Config, onWay)
	}
	f.never = f.never || len(t.State) > 0 && strings.HasPrefix(e.Path+"/", "state/")
	if e.Path == t.Helper {
		f.run = true
		f.never = f.never || e.Type != manifest.File || e.Mode&0o100 == 0
	}
}

// open follows a path as Linux does when it opens a file below a directory that it must not leave.
func open(links map[string]string, name string) (leaves, endless bool) {
	var at []string
	rest := strings.Split(name, "/")
	for hops := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return true, false
			}
			at = at[:len(at)-1]
			continue
		}
		target, ok := links[path.Join(path.Join(at...), part)]
		if !ok {
			at = append(at, part)
			continue
		}
		if hops++; hops > 40 {
			return false, true
		}
		if target[0] == '/' {
			return true, false
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return false, false
}
