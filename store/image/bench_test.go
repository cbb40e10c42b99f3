package image_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// BenchmarkStage stages 15,000 files and compares that with cp -al of the same tree and a sync after it, turn by turn.
// It reports milliseconds of each and the ratio of staging to copying, both with their sync.
func BenchmarkStage(b *testing.B) {
	made := newBlobs(b)
	r, m := release(b, made, 1, wide(15_000))
	base := tempDir(b)
	bl, err := store.Open(filepath.Join(base, "store"))
	must(b, err)
	defer bl.Close()
	for _, e := range m.Entries {
		if e.Type == manifest.File {
			must(b, bl.Put(e.Blob, made.content[e.Blob], e.Mode))
		}
	}
	must(b, bl.Sync())
	im, err := image.Open(filepath.Join(base, "image"))
	must(b, err)
	defer im.Close()
	first := stage(b, im, r, m, bl)
	must(b, im.Activate(first))
	source, err := filepath.EvalSymlinks(im.Tree(first))
	must(b, err)
	var tCopy, tSync, tStage, tStageSync time.Duration
	seq := uint64(1)
	for b.Loop() {
		start := time.Now()
		to := filepath.Join(base, "copy")
		if out, err := exec.Command("cp", "-al", source, to).CombinedOutput(); err != nil {
			b.Fatal(err, string(out))
		}
		tCopy += time.Since(start)
		start = time.Now()
		syncFS(b, base)
		tSync += time.Since(start)
		must(b, os.RemoveAll(to))
		syncFS(b, base)

		seq++
		m.Seq = seq
		r := releaseOf(b, m)
		var linked time.Time
		start = time.Now()
		d, err := im.Stage(context.Background(), image.Plan{Parts: plan(r, m).Parts, Progress: func(p image.StageProgress) {
			if p.Phase == image.PhaseLay && p.Done == p.Total {
				linked = time.Now()
			}
		}}, bl)
		must(b, err)
		tStage += linked.Sub(start)
		tStageSync += time.Since(linked)
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
	b.ReportMetric(float64(tStage+tStageSync)/float64(tCopy+tSync), "stage/cp")
	b.ReportMetric(float64(tStage)/float64(tCopy), "stage/cp-unsynced")
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
