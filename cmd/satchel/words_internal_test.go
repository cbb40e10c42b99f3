package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1: "1 B", 999: "999 B", 1000: "1.00 kB", 1234: "1.23 kB", 9_994: "9.99 kB", 9_995: "10.0 kB", 99_949: "99.9 kB", 99_950: "100 kB",
		999_499: "999 kB", 999_500: "1.00 MB", 103_000_000: "103 MB", 1 << 40: "1.10 TB", 1<<64 - 1: "18.4 EB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 59400 * time.Millisecond: "59 s", 59600 * time.Millisecond: "1 min 0 s", 3599 * time.Second: "59 min 59 s",
		90 * time.Minute: "1 h 30 min", 49 * time.Hour: "2 d 1 h",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestParseSpan(t *testing.T) {
	for s, want := range map[string]time.Duration{"90s": 90 * time.Second, "36h": 36 * time.Hour, "7d": 7 * 24 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := parseSpan(s); err != nil || got != want {
			t.Errorf("parseSpan(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "d", "0", "0s", "0d", "-1h", "-1d", "7", "soon", "99999999d", "1.5d"} {
		if got, err := parseSpan(s); err == nil {
			t.Errorf("parseSpan(%q) = %v", s, got)
		}
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 11478: "11,478", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %q", n, got)
		}
	}
	if got := count(1, "file", "files") + count(2, "file", "files"); got != "1 file2 files" {
		t.Error(got)
	}
	for _, c := range [][3]uint64{{0, 0, 100}, {0, 10, 0}, {999, 1000, 99}, {1000, 1000, 100}, {2000, 1000, 100}, {1 << 63, 1<<64 - 1, 50}} {
		if got := percent(c[0], c[1]); uint64(got) != c[2] {
			t.Errorf("percent(%d, %d) = %d, want %d", c[0], c[1], got, c[2])
		}
	}
	if got := sources(map[string]uint64{"a": 1, "b": 5000, "c": 0, "d": 1}, strings.ToUpper); got != "B 5.00 kB, A 1 B, D 1 B" {
		t.Error(got)
	}
}

func TestEntries(t *testing.T) {
	for mode, want := range map[uint32]string{0o644: "rw-r--r--", 0o4755: "rwsr-xr-x", 0o6644: "rwSr-Sr--", 0o1777: "rwxrwxrwt", 0o1666: "rw-rw-rwT", 0: "---------"} {
		if got := modeWords(mode); got != want {
			t.Errorf("modeWords(%o) = %q, want %q", mode, got, want)
		}
	}
	for name, want := range map[string]string{"a b": "a b", "ä": "ä", "a\nb": `"a\nb"`, "\x1b[2J": `"\x1b[2J"`, `"q`: `"\"q"`} {
		if got := quoted(name); got != want {
			t.Errorf("quoted(%q) = %s, want %s", name, got, want)
		}
	}
}

func TestDefaultHome(t *testing.T) {
	t.Setenv("HOME", "/home/ana")
	t.Setenv("XDG_DATA_HOME", "")
	for _, c := range []struct {
		uid  int
		xdg  string
		want string
	}{
		{0, "/x", "/var/lib/satchel"},
		{1000, "", "/home/ana/.local/share/satchel"},
		{1000, "relative", "/home/ana/.local/share/satchel"}, // the XDG specification says: ignore
		{1000, "/x", "/x/satchel"},
	} {
		t.Setenv("XDG_DATA_HOME", c.xdg)
		if got, err := defaultHome(c.uid); err != nil || got != c.want {
			t.Errorf("uid %d, XDG %q: %q, %v, want %q", c.uid, c.xdg, got, err, c.want)
		}
	}
}

func TestScreen(t *testing.T) {
	var b strings.Builder
	s := &screen{w: &b}
	s.draw("one\ntwo\n", 80, 24)
	s.draw("a line that is too long\n2\n3\n4\n5\n", 10, 5)
	want := "\r\x1b[Kone\n\r\x1b[Ktwo\n\x1b[J" + "\x1b[2A\r\x1b[Ka line t…\n\r\x1b[K2\n\r\x1b[K3\n\r\x1b[K…\n\x1b[J"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

// The demo's own comparison must see every difference, or it would praise a broken tree.
func TestSameTree(t *testing.T) {
	a := t.TempDir()
	write := func(dir, name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(a, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(a, "d/f", strings.Repeat("x", 100_000))
	write(a, "e", "")
	if err := os.Symlink("e", filepath.Join(a, "l")); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(dir string) error{
		"":        func(string) error { return nil },
		"content": func(d string) error { write(d, "d/f", strings.Repeat("x", 99_999)+"y"); return nil },
		"longer":  func(d string) error { write(d, "d/f", strings.Repeat("x", 100_001)); return nil },
		"shorter": func(d string) error { write(d, "d/f", strings.Repeat("x", 65_536)); return nil },
		"mode":    func(d string) error { return os.Chmod(d+"/e", 0o600) },
		"missing": func(d string) error { return os.Remove(d + "/e") },
		"extra":   func(d string) error { write(d, "d/more", ""); return nil },
		"link":    func(d string) error { os.Remove(d + "/l"); return os.Symlink("d", d+"/l") },
		"type":    func(d string) error { os.Remove(d + "/l"); return os.Link(d+"/e", d+"/l") },
	} {
		b := filepath.Join(t.TempDir(), "copy")
		if _, err := copyTree(t.Context(), a, b); err != nil {
			t.Fatal(err)
		}
		if err := change(b); err != nil {
			t.Fatal(err)
		}
		w, err := sameTree(t.Context(), a, b)
		if (err == nil) != (name == "") {
			t.Errorf("%q: %v", name, err)
		}
		if name == "" && (w.files != 2 || w.bytes != 100_000) {
			t.Errorf("counted %+v", w)
		}
	}
}

func TestMakeNext(t *testing.T) {
	a, b := t.TempDir(), filepath.Join(t.TempDir(), "next")
	for _, name := range strings.Split("abcdefghij", "") {
		if err := os.WriteFile(filepath.Join(a, name), []byte(strings.Repeat(name, 1000)), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(a, 0o555); err != nil {
		t.Fatal(err)
	}
	said, err := makeNext(t.Context(), a, b)
	if err != nil || !strings.Contains(said, "1 file edited") {
		t.Fatalf("%q, %v", said, err)
	}
	entries, err := os.ReadDir(b)
	if err != nil || len(entries) != 10 { // one removed, one added
		t.Errorf("%d entries, %v", len(entries), err)
	}
	if err := removeTree(b); err != nil {
		t.Error(err)
	}
	os.Chmod(a, 0o755)
}
