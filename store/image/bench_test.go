package image_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// BenchmarkStage stages the next release of 15,000 files, one of them new, and compares that with cp -al of the same tree, turn by turn.
// It reports milliseconds of each, those of the syncs after them, and of reading the new file again; stage/cp leaves these out, since a
// copy is neither synced nor read. BENCH_DIR is where: another file system, for example. BENCH_CP takes the place of -al: where trees
// share blocks, "-a --reflink=always" does the same work.
func BenchmarkStage(b *testing.B) {
	made := newBlobs(b)
	tree := wide(15_000)
	r, m := release(b, made, 1, tree)
	base, err := os.MkdirTemp(os.Getenv("BENCH_DIR"), "stage-")
	must(b, err)
	defer os.RemoveAll(base)
	bl, err := store.Open(filepath.Join(base, "store"))
	must(b, err)
	defer bl.Close()
	put := func(m *manifest.Manifest) {
		for _, e := range m.Entries {
			if e.Type == manifest.File {
				must(b, bl.Put(e.Blob, made.content[e.Blob], e.Mode))
			}
		}
		c, _, err := bl.PutManifest(m)
		must(b, errors.Join(err, bl.Sync()))
		if r := releaseOf(b, m); r.Manifest != c {
			b.Fatal("another CID")
		}
	}
	put(m)
	im, err := image.Open(filepath.Join(base, "image"))
	must(b, err)
	defer im.Close()
	first := stage(b, im, r, m, bl)
	must(b, im.Activate(first))
	source, err := filepath.EvalSymlinks(im.Tree(first))
	must(b, err)
	how := []string{"-al"}
	if s := os.Getenv("BENCH_CP"); s != "" {
		how = strings.Fields(s)
	}
	var tCopy, tSync, tStage, tStageSync, tProve time.Duration
	seq := uint64(1)
	for b.Loop() {
		start := time.Now()
		to := filepath.Join(base, "copy")
		if out, err := exec.Command("cp", append(how, source, to)...).CombinedOutput(); err != nil {
			b.Fatal(err, string(out))
		}
		tCopy += time.Since(start)
		start = time.Now()
		syncFS(b, base)
		tSync += time.Since(start)
		must(b, os.RemoveAll(to))

		seq++
		tree[len(tree)-1].data = fmt.Sprint("changed in ", seq)
		r, m := release(b, made, seq, tree)
		put(m)
		syncFS(b, base)
		var syncing, proving time.Time
		start = time.Now()
		d, err := im.Stage(context.Background(), image.Plan{Parts: plan(r, m).Parts, Progress: func(p image.StageProgress) {
			switch {
			case p.Phase == image.PhaseSync:
				syncing = time.Now()
			case p.Phase == image.PhaseVerify && proving.IsZero():
				proving = time.Now()
			}
		}}, bl)
		must(b, err)
		tStage += syncing.Sub(start)
		tStageSync += proving.Sub(syncing)
		tProve += time.Since(proving)
		must(b, im.Destroy(d.ID))
		syncFS(b, base)
	}
	report := func(d time.Duration, what string) {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), what)
	}
	report(tCopy, "cp-ms")
	report(tSync, "cp-sync-ms")
	report(tStage, "stage-ms")
	report(tStageSync, "stage-sync-ms")
	report(tProve, "prove-and-name-ms")
	b.ReportMetric(float64(tStage)/float64(tCopy), "stage/cp")
}

// BenchmarkVerify reads the same tree again.
func BenchmarkVerify(b *testing.B) {
	bl := newBlobs(b)
	r, m := release(b, bl, 1, wide(15_000))
	im := open(b, tempDir(b))
	id := stage(b, im, r, m, bl)
	b.SetBytes(int64(m.TotalSize()))
	for b.Loop() {
		if problems, err := im.Verify(context.Background(), id, bl, nil); err != nil || len(problems) > 0 {
			b.Fatal(problems, err)
		}
	}
}

// wide is a tree of n small files in n/15 directories.
func wide(n int) []entry {
	rnd := rand.New(rand.NewPCG(1, 2))
	var tree []entry
	for i := range n {
		dir := fmt.Sprintf("p%03d/d%03d/", i/300, i/15)
		if i%300 == 0 {
			tree = append(tree, entry{path: dir[:5], mode: 0o755})
		}
		if i%15 == 0 {
			tree = append(tree, entry{path: dir, mode: 0o755})
		}
		data := make([]byte, 200+rnd.IntN(8000))
		for j := range data {
			data[j] = byte(rnd.Uint32())
		}
		tree = append(tree, entry{path: fmt.Sprintf("%sf%05d.go", dir, i), mode: 0o644, data: string(data)})
	}
	return sorted(tree)
}

func syncFS(tb testing.TB, dir string) {
	f, err := os.Open(dir)
	must(tb, err)
	defer f.Close()
	must(tb, unix.Syncfs(int(f.Fd())))
}
