package crash

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRun makes a fault happen at each change of a small script.
func TestRun(t *testing.T) {
	script := func(f Fault) (o Outcome, dir, said string) {
		dir = t.TempDir()
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		o, err = Run([]string{"/bin/sh", "-c", `echo one > a && /bin/mv a b && /bin/mkdir c && echo done`}, dir, out, f)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return o, dir, string(text)
	}
	o, _, said := script(Fault{})
	if said != "done\n" || o.Reached || !slices.ContainsFunc(o.Changes, func(s string) bool { return strings.HasPrefix(s, "rename") }) {
		t.Fatalf("%+v, %q", o, said)
	}
	for at := range o.Changes {
		killed, _, said := script(Fault{At: at + 1})
		if !killed.Reached || len(killed.Changes) != at+1 || said != "" {
			t.Errorf("%+v, %q", killed, said)
		}
		failed, dir, said := script(Fault{At: at + 1, Errno: unix.ENOSPC})
		if !failed.Reached || failed.Status.Signaled() || strings.Contains(said, "done") {
			t.Errorf("%+v, %q", failed, said)
		}
		if _, err := os.Stat(filepath.Join(dir, "c")); err == nil && at+1 < len(o.Changes) {
			t.Errorf("change %d failed, and what comes after was done: %v", at+1, o.Changes)
		}
	}
	if killed, _, _ := script(Fault{At: 1}); killed.Status.Signaled() && killed.Status.Signal() != syscall.SIGKILL {
		t.Error(killed.Status)
	}
}
