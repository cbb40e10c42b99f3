package image_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"satchel/store/image"
)

// checks writes shell scripts into a directory.
func checks(t *testing.T, dir string, scripts map[string]string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	for name, text := range scripts {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	}
}

func TestHealth(t *testing.T) {
	dir, im, ids := three(t)
	checks(t, filepath.Join(dir, "health.d"), map[string]string{
		"10-good":  `echo "$SATCHEL_DEPLOYMENT of $SATCHEL_IMAGE in $SATCHEL_TREE"`,
		"20-bad":   "echo oh >&2; exit 3",
		"30-long":  "yes | head -c 100000; echo end",
		".hidden":  "exit 1",
		"README":   "exit 1",
		"40-old~":  "exit 1",
		"50-loose": "exit 0",
	})
	must(t, os.Chmod(filepath.Join(dir, "health.d", "README"), 0o644))
	must(t, os.Chmod(filepath.Join(dir, "health.d", "50-loose"), 0o757))
	got, err := im.Health(t.Context(), ids[1], false, 0)
	must(t, err)
	var names []string
	for _, r := range got {
		names = append(names, r.Name)
		if r.OK != (r.Why == "") {
			t.Errorf("%+v", r)
		}
	}
	if strings.Join(names, " ") != "10-good 20-bad 30-long 50-loose" {
		t.Fatalf("ran %q", names)
	}
	if want := ids[1] + " of " + dir + " in " + im.Tree(ids[1]) + "\n"; !got[0].OK || got[0].Output != want {
		t.Errorf("%+v", got[0])
	}
	if got[1].OK || got[1].Output != "oh\n" || !strings.Contains(got[1].Why, "exit status 3") {
		t.Errorf("%+v", got[1])
	}
	if !got[2].OK || len(got[2].Output) != 4096 || !strings.HasSuffix(got[2].Output, "y\nend\n") {
		t.Errorf("%+v", got[2])
	}
	if got[3].OK || !strings.Contains(got[3].Why, "write") {
		t.Errorf("%+v", got[3])
	}
	if _, err := im.Health(t.Context(), "demo-1-9-aaaaaaaa", false, 0); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
}

// TestHealthOfTree runs what the release brings, when asked to.
func TestHealthOfTree(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	r, m := release(t, b, 1, []entry{{path: "health.d/", mode: 0o755}, {path: "health.d/own", mode: 0o755, data: "#!/bin/sh\nexit 4\n"}})
	im := open(t, dir)
	id := stage(t, im, r, m, b)
	if got, err := im.Health(t.Context(), id, false, 0); err != nil || len(got) > 0 {
		t.Error(got, err)
	}
	if got, err := im.Health(t.Context(), id, true, 0); err != nil || len(got) != 1 || got[0].OK {
		t.Error(got, err)
	}
}

// TestHealthLimit: what hangs is ended with all that it started, also what it left behind.
func TestHealthLimit(t *testing.T) {
	dir := tempDir(t)
	checks(t, dir, map[string]string{
		"1-hangs":  "sleep 1000 & echo $!; wait",
		"2-leaves": "sleep 1000 & echo $!",
	})
	got, err := image.Health(t.Context(), []string{dir}, nil, 500*time.Millisecond)
	must(t, err)
	if len(got) != 2 || got[0].OK || !strings.Contains(got[0].Why, "not done after 500ms") || !got[1].OK {
		t.Fatalf("%+v", got)
	}
	for _, r := range got {
		pid, err := strconv.Atoi(strings.TrimSpace(r.Output))
		must(t, err)
		if err := gone(pid); err != nil {
			t.Errorf("%s: process %d: %v", r.Name, pid, err)
		}
	}
}

// gone waits until a process is no more, or waits for init to reap it.
func gone(pid int) error {
	for range 1000 {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(text), ") Z ") {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return syscall.EBUSY
}

func TestHealthInterrupted(t *testing.T) {
	dir := tempDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	marker := filepath.Join(dir, "marker")
	checks(t, dir, map[string]string{"1": "exit 0", "2": "echo >" + marker + "; sleep 1000", "3": "exit 0"})
	go func() {
		for {
			if _, err := os.Stat(marker); err == nil {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	got, err := image.Health(ctx, []string{dir}, nil, 0)
	if !errors.Is(err, context.Canceled) || len(got) != 1 {
		t.Error(got, err)
	}
}

// TestHealthHasNoNetwork: a check sees no interface but its own loopback, which is down.
func TestHealthHasNoNetwork(t *testing.T) {
	dir := tempDir(t)
	checks(t, dir, map[string]string{"net": "tail -n +3 /proc/self/net/dev | cut -d: -f1; readlink /proc/self/ns/net"})
	got, err := image.Health(t.Context(), []string{dir}, nil, 0)
	must(t, err)
	if len(got) != 1 || !got[0].OK {
		t.Fatalf("%+v", got)
	}
	if got[0].Network {
		t.Skip("SKIPPED: this process may not make a network namespace")
	}
	mine, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	lines := strings.Fields(got[0].Output)
	if len(lines) != 2 || lines[0] != "lo" || lines[1] == mine {
		t.Errorf("sees %q; this process is in %s", lines, mine)
	}
}
