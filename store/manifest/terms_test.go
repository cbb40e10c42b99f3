package manifest_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"satchel/store/manifest"
)

// FuzzTerms takes terms and entries as lines. What is taken is printed and read again, and judged another way.
func FuzzTerms(f *testing.F) {
	for _, p := range madeTermPolicies() {
		t := p.terms
		f.Add(strings.Join(t.Config, "\n"), strings.Join(t.State, "\n"), strings.Join(t.Patches, "\n"), t.Helper, strings.Join(p.lines, "\n"))
	}
	f.Fuzz(func(t *testing.T, config, state, patches, helper, tree string) {
		h := header
		h.Terms = manifest.Terms{Config: lines(config), State: lines(state), Patches: lines(patches), Helper: helper}
		m := &manifest.Manifest{Header: h, Entries: entries(strings.Split(tree, "\n")...)}
		data, err := m.Encode()
		if err != nil {
			return
		}
		if want := wireForm(t, m); !bytes.Equal(data, want) {
			t.Fatalf("printed as %x, want %x", data, want)
		}
		read, err := manifest.Parse(data)
		if err != nil || fmt.Sprint(read.Terms) != fmt.Sprint(m.Terms) {
			t.Fatalf("read as %+v, %v", read, err)
		}
		judged(t, m)
	})
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func TestPatchIDs(t *testing.T) {
	for id, good := range map[string]bool{"124393-02": true, "000000-00": true, "999999-99": true, "8": false, "12439302": false, "124393-2": false, "124393--2": false,
		"124393-02\n": false, " 24393-02": false, "1243930-2": false} {
		if err := manifest.CheckPatch(id); (err == nil) != good {
			t.Errorf("%q: %v", id, err)
		}
	}
	for id, special := range map[string]bool{"800000-01": true, "899999-01": true, "799999-08": false, "900000-88": false, "080000-01": false} {
		if manifest.SpecialPatch(id) != special {
			t.Errorf("%s: special is not %v", id, special)
		}
	}
}

// TestTermsLimits: what is too much for a reader is refused to who prints it.
func TestTermsLimits(t *testing.T) {
	for n := manifest.MaxPatches; n <= manifest.MaxPatches+1; n++ {
		h := header
		for i := range n {
			h.Terms.Patches = append(h.Terms.Patches, fmt.Sprintf("%06d-00", i))
		}
		if err := manifest.CheckHeader(&h); (err == nil) != (n == manifest.MaxPatches) {
			t.Errorf("%d patches: %v", n, err)
		}
	}
}

// TestTermsError: the message names what is wrong, and what is missing is told after what is there.
func TestTermsError(t *testing.T) {
	h := header
	h.Terms = manifest.Terms{Helper: "z/apply"}
	var tree []string
	for i := range 12 {
		tree = append(tree, fmt.Sprintf("f 4755 %02d", i))
	}
	m := &manifest.Manifest{Header: h, Entries: entries(tree...)}
	var e *manifest.PolicyError
	if err := m.Check(manifest.Policy{}); !errors.As(err, &e) || len(e.Violations) != 10 || e.Entries != 13 || !e.Never || e.Violations[0].Path != "00" {
		t.Errorf("%+v", e)
	}
	if err := m.Check(manifest.Policy{Setuid: true}); !errors.As(err, &e) || len(e.Violations) != 1 || e.Entries != 1 || err.Error() != `"z/apply" is named as helper, and is not in the tree; some of it no permission allows` {
		t.Errorf("%v", err)
	}
	m.Terms = manifest.Terms{Helper: "00"}
	if err := m.Check(manifest.Policy{Setuid: true}); !errors.As(err, &e) || e.Never || err.Error() != `"00" is run by the machines that take the release; the trust root does not allow this product: run` {
		t.Errorf("%v", err)
	}
	if err := m.Check(manifest.Policy{Setuid: true, Run: true}); err != nil {
		t.Error(err)
	}
}

// TestWriterTakesTerms: a publisher that prints entry by entry gets the same document, and the same refusals.
func TestWriterTakesTerms(t *testing.T) {
	h := header
	h.Terms = manifest.Terms{Config: []string{"etc"}, Patches: []string{"100000-01"}}
	m := &manifest.Manifest{Header: h, Entries: entries("f 755 a")}
	var body bytes.Buffer
	w := manifest.NewWriter(&body)
	if err := w.Add(m.Entries[0]); err != nil {
		t.Fatal(err)
	}
	head, err := w.Head(h)
	if want := wireForm(t, m); err != nil || !bytes.Equal(append(head, body.Bytes()...), want) {
		t.Errorf("printed as %x, %v; want %x", head, err, want)
	}
	h.Terms.State = []string{"etc/x"}
	if _, err := w.Head(h); err == nil {
		t.Error("terms that contradict each other were printed")
	}
}
