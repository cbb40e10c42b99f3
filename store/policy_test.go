package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"satchel/store"
	"satchel/store/manifest"
)

func publishStrictly(t *testing.T, s *store.Store, tree string, p manifest.Policy) (*store.PublishResult, error) {
	t.Helper()
	o := options()
	o.Policy = &p
	return s.Publish(context.Background(), tree, o)
}

// plantAll puts one entry into a tree for each permission, and a loop.
func plantAll(t *testing.T, tree string) {
	t.Helper()
	write(t, tree, "bin/su", []byte("su"))
	write(t, tree, "docs/README", []byte("a"))
	write(t, tree, "docs/Readme", []byte("b"))
	write(t, tree, "docs/nul.txt", []byte("c"))
	for _, err := range []error{
		syscall.Chmod(filepath.Join(tree, "bin/su"), 0o4755),
		os.Symlink("/etc/passwd", filepath.Join(tree, "passwd")),
		os.Symlink("../../up", filepath.Join(tree, "docs/up")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestPublishPolicy(t *testing.T) {
	tree := t.TempDir()
	plantAll(t, tree)
	s := open(t, t.TempDir())
	_, err := publishStrictly(t, s, tree, manifest.Policy{})
	want := `publishing ` + tree + `: 5 entries cannot be published: "bin/su": is setuid (mode 4755); ` +
		`"docs/Readme": is the same name as "README" where case and Unicode form do not count; ` +
		`"docs/nul.txt": is the name of a device on Windows; ` +
		`"docs/up": is a link that leaves the tree: "../../up"; "passwd": is a link that leaves the tree: "/etc/passwd"; ` +
		`the trust root can allow it, with "satchel root set ROOT --product PATTERN --may link-out,names,setuid"`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %v", err, want)
	}
	if all, err := s.Manifests(); err != nil || len(all) != 0 {
		t.Errorf("a manifest was made: %v, %v", all, err)
	}
	if u, err := s.Usage(context.Background()); err != nil || u.Blobs != 0 {
		t.Errorf("blobs were stored: %+v, %v", u, err)
	}
	_, err = publishStrictly(t, s, tree, manifest.Policy{Names: true, LinkOut: true})
	var te *store.TreeError
	if !errors.As(err, &te) || te.Total != 1 || !slices.Equal(te.May, []manifest.Permission{manifest.MaySetuid}) {
		t.Errorf("without setuid: %+v", err)
	}
	r, err := publishStrictly(t, s, tree, manifest.Policy{Setuid: true, Names: true, LinkOut: true})
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Manifest(r.Manifest)
	if err != nil || len(m.Entries) != 8 || m.Entries[1].Mode != 0o4755 || r.Closed != 0 {
		t.Errorf("%+v, %v", m, err)
	}
	if err := os.Symlink("loop", filepath.Join(tree, "loop")); err != nil {
		t.Fatal(err)
	}
	if _, err := publishStrictly(t, s, tree, manifest.Policy{Setuid: true, Names: true, LinkOut: true}); !errors.As(err, &te) || te.Total != 1 || len(te.May) != 0 || strings.Contains(err.Error(), "--may") {
		t.Errorf("a loop: %v", err)
	}
	if _, err := s.Publish(context.Background(), tree, options()); err != nil {
		t.Errorf("without a policy: %v", err)
	}
}

// TestPublishPolicyIsEarly has the entry that is refused behind so many files that their content would be read before it is met.
func TestPublishPolicyIsEarly(t *testing.T) {
	tree := t.TempDir()
	for i := range 3000 {
		write(t, tree, fmt.Sprintf("lesson%04d", i), []byte(fmt.Sprint(i)))
	}
	if err := os.Symlink("/etc", filepath.Join(tree, "zzz")); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir())
	o := options()
	o.Policy = new(manifest.Policy)
	var read uint64
	o.Progress = func(p store.PublishProgress) { read = p.Bytes }
	var te *store.TreeError
	if _, err := s.Publish(context.Background(), tree, o); !errors.As(err, &te) || te.Problems[0].Path != "zzz" {
		t.Errorf("got %v", err)
	}
	if read != 0 {
		t.Errorf("%d bytes were read before", read)
	}
}

// TestPublishClosesModes: what everybody may write to, as all is on a USB stick, is published without that bit.
func TestPublishClosesModes(t *testing.T) {
	tree := t.TempDir()
	write(t, tree, "dir/file", []byte("a"))
	write(t, tree, "dir/other", []byte("b"))
	for path, mode := range map[string]uint32{"dir": 0o777, "dir/file": 0o777, "dir/other": 0o666} {
		if err := syscall.Chmod(filepath.Join(tree, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	modes := func(p *manifest.Policy, closed int) (list []uint32) {
		s := open(t, t.TempDir())
		o := options()
		o.Policy = p
		r, err := s.Publish(context.Background(), tree, o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Closed != closed {
			t.Errorf("%d entries were closed, want %d", r.Closed, closed)
		}
		m, err := s.Manifest(r.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range m.Entries {
			list = append(list, e.Mode)
		}
		return list
	}
	if got := modes(&manifest.Policy{}, 3); !slices.Equal(got, []uint32{0o775, 0o775, 0o664}) {
		t.Errorf("modes %o", got)
	}
	for _, p := range []*manifest.Policy{nil, {Setuid: true}} {
		if got := modes(p, 0); !slices.Equal(got, []uint32{0o777, 0o777, 0o666}) {
			t.Errorf("modes %o", got)
		}
	}
	if err := syscall.Chmod(filepath.Join(tree, "dir"), 0o1777); err != nil {
		t.Fatal(err)
	}
	if _, err := publishStrictly(t, open(t, t.TempDir()), tree, manifest.Policy{}); err == nil || !strings.Contains(err.Error(), `"dir": is sticky (mode 1775)`) {
		t.Errorf("sticky: %v", err)
	}
}

// TestPublishPolicyAfterSurvey changes the tree after it was looked at.
func TestPublishPolicyAfterSurvey(t *testing.T) {
	tree := t.TempDir()
	write(t, tree, "file", []byte("a"))
	o := options()
	o.Policy = new(manifest.Policy)
	o.AfterSurvey(func() {
		if err := os.Symlink("/etc", filepath.Join(tree, "etc")); err != nil {
			t.Error(err)
		}
	})
	var te *store.TreeError
	if _, err := open(t, t.TempDir()).Publish(context.Background(), tree, o); !errors.As(err, &te) || te.Total != 1 || te.Problems[0].Path != "etc" {
		t.Errorf("got %v", err)
	}
}
