package image_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// TestLowMemory stages, verifies and activates a tree of 15,000 files and 1 GB in a process that may have 48 MB, the system's memory of
// files included. Two of the files are large.
func TestLowMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: writes 1 GB")
	}
	limit := newCgroup(t, 48<<20)
	dir := tempDir(t)
	program := filepath.Join(dir, "lowmem") // not under the race detector, which takes many times the memory
	build := exec.Command("go", "build", "-o", program, "./testdata/lowmem")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v %s", err, out)
	}
	s, err := store.Open(dir + "/store")
	must(t, err)
	m := gigabyte(t, s)
	c, _, err := s.PutManifest(m)
	must(t, err)
	must(t, s.Close())

	cmd := exec.Command(program, dir+"/store", dir+"/image", c.String())
	in, err := cmd.StdinPipe()
	must(t, err)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	limit.add(t, cmd.Process.Pid)
	fmt.Fprintln(in, "go")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	t.Logf("it took at most %s bytes, of which it had %d KiB itself; it met the limit %s times",
		limit.read("memory.max_usage_in_bytes", "memory.peak"), maxRSS(cmd), limit.read("memory.failcnt", "memory.events"))
	im, err := image.Open(dir + "/image")
	must(t, err)
	defer im.Close()
	if live, ok := im.Live(); !ok || live.Releases[0].Manifest != c {
		t.Errorf("live is %+v", live)
	}
}

// gigabyte fills a store with files of random bytes and gives a manifest of them.
func gigabyte(t *testing.T, s *store.Store) *manifest.Manifest {
	t.Helper()
	rnd := rand.NewChaCha8([32]byte{1})
	m := &manifest.Manifest{Header: manifest.Header{Product: "demo", Seq: 1, Version: "v1"}}
	buf := make([]byte, 100<<10)
	sizes := rand.New(rnd)
	for i := range 14_998 {
		if i%100 == 0 {
			m.Entries = append(m.Entries, manifest.Entry{Path: fmt.Sprintf("d%03d", i/100), Type: manifest.Dir, Mode: 0o755})
		}
		data := buf[:30<<10+sizes.IntN(60<<10)]
		rnd.Read(data)
		e := manifest.Entry{Path: fmt.Sprintf("d%03d/f%05d", i/100, i), Type: manifest.File, Mode: 0o644, Size: uint64(len(data)), Blob: store.RawCID(store.Sum(data))}
		must(t, s.Put(e.Blob, data, e.Mode))
		m.Entries = append(m.Entries, e)
	}
	source := tempDir(t)
	for i := range 2 {
		f, err := os.Create(fmt.Sprintf("%s/z%d", source, i))
		must(t, err)
		for range 40 << 20 / len(buf) {
			rnd.Read(buf)
			_, err := f.Write(buf)
			must(t, err)
		}
		must(t, f.Close())
	}
	p, err := s.Publish(t.Context(), source, store.PublishOptions{Header: m.Header})
	must(t, err)
	large, err := s.Manifest(p.Manifest)
	must(t, err)
	m.Entries = append(m.Entries, large.Entries...)
	if total := m.TotalSize(); total < 950<<20 {
		t.Fatalf("only %d bytes", total)
	}
	return m
}

// cgroup limits the memory of processes.
type cgroup struct{ dir string }

// newCgroup makes a cgroup, version 1 or 2. The test is skipped where it cannot be made.
func newCgroup(t *testing.T, bytes int) *cgroup {
	t.Helper()
	name := fmt.Sprintf("satchel-test-%d", os.Getpid())
	for _, v := range []struct{ parent, file string }{{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}} {
		g := &cgroup{filepath.Join(v.parent, name)}
		if os.Mkdir(g.dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { must(t, os.Remove(g.dir)) })
		if os.WriteFile(filepath.Join(g.dir, v.file), []byte(strconv.Itoa(bytes)), 0o644) == nil {
			return g
		}
	}
	t.Skip("SKIPPED: no memory cgroup can be made here")
	return nil
}

func (g *cgroup) add(t *testing.T, pid int) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644))
}

// read gives the first of the files that is there.
func (g *cgroup) read(names ...string) string {
	for _, name := range names {
		if text, err := os.ReadFile(filepath.Join(g.dir, name)); err == nil {
			return strings.TrimSpace(string(text))
		}
	}
	return "?"
}

// maxRSS is the most memory that a process had of its own, in KiB.
func maxRSS(cmd *exec.Cmd) int64 {
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		return usage.Maxrss
	}
	return 0
}
