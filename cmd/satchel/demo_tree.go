package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"satchel/p2p"
)

// weight is how much a tree is.
type weight struct {
	files int
	bytes uint64
}

// errTooHeavy ends weigh early.
var errTooHeavy = errors.New("too large")

// weigh counts the files of a tree; over limit bytes (0: none) it gives up.
func weigh(ctx context.Context, dir string, limit uint64) (w weight, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		w.files++
		if w.bytes += uint64(info.Size()); limit > 0 && w.bytes > limit {
			return errTooHeavy
		}
		return nil
	})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return w, err
}

// findTree finds a real tree on this machine that is worth watching and not too large: the source of Go, documentation, or the
// largest directory of the system that is small enough.
func findTree(ctx context.Context) (string, error) {
	const least, most = 50e6, 160e6
	var candidates []string
	if out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output(); err == nil {
		candidates = append(candidates, filepath.Join(strings.TrimSpace(string(out)), "src"))
	}
	candidates = append(candidates, "/usr/share/doc", "/usr/share")
	for _, parent := range []string{"/usr/share", "/usr/lib"} {
		entries, _ := os.ReadDir(parent)
		for _, e := range entries {
			if e.IsDir() {
				candidates = append(candidates, filepath.Join(parent, e.Name()))
			}
		}
	}
	best, most1 := "", uint64(0)
	for _, dir := range candidates {
		w, err := weigh(ctx, dir, most)
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if err != nil {
			continue
		}
		if w.bytes >= least {
			return dir, nil
		}
		if w.bytes > most1 {
			best, most1 = dir, w.bytes
		}
	}
	if best == "" {
		return "", advise(p2p.CodeNotFound, "give a directory: satchel demo TREE", errors.New("no tree to show was found on this machine"))
	}
	return best, nil
}

// sameTree compares two trees: types, modes, content and targets of links. The mode of the top itself does not count.
func sameTree(ctx context.Context, a, b string) (w weight, err error) {
	seen := 0
	err = filepath.WalkDir(a, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == a {
			return err
		}
		seen++
		rel := strings.TrimPrefix(path, a)
		n, err := sameEntry(path, b+rel)
		if err != nil {
			return fmt.Errorf("%s: %w", strings.TrimPrefix(rel, "/"), err)
		}
		if e.Type().IsRegular() {
			w.files++
			w.bytes += n
		}
		return nil
	})
	if err != nil {
		return w, err
	}
	theirs := -1
	top := b + "/" // it may be a link
	err = filepath.WalkDir(top, func(_ string, _ fs.DirEntry, err error) error { theirs++; return err })
	if err == nil && theirs != seen {
		err = fmt.Errorf("%s has %d entries instead of %d", b, theirs, seen)
	}
	return w, err
}

// sameEntry compares one entry and returns its size.
func sameEntry(a, b string) (uint64, error) {
	ai, err := os.Lstat(a)
	if err != nil {
		return 0, err
	}
	bi, err := os.Lstat(b)
	if err != nil {
		return 0, err
	}
	if ai.Mode() != bi.Mode() {
		return 0, fmt.Errorf("mode %v instead of %v", bi.Mode(), ai.Mode())
	}
	switch ai.Mode().Type() {
	case fs.ModeSymlink:
		at, err := os.Readlink(a)
		if err != nil {
			return 0, err
		}
		if bt, err := os.Readlink(b); err != nil || at != bt {
			return 0, fmt.Errorf("link to %q instead of %q", bt, at)
		}
	case 0:
		return uint64(ai.Size()), sameContent(a, b)
	}
	return 0, nil
}

func sameContent(a, b string) error {
	af, err := os.Open(a)
	if err != nil {
		return err
	}
	defer af.Close()
	bf, err := os.Open(b)
	if err != nil {
		return err
	}
	defer bf.Close()
	ab, bb := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		an, aerr := io.ReadFull(af, ab)
		bn, berr := io.ReadFull(bf, bb)
		if !bytes.Equal(ab[:an], bb[:bn]) {
			return errors.New("other content")
		}
		if aerr != nil || berr != nil {
			if aerr == io.ErrUnexpectedEOF || aerr == io.EOF {
				aerr = nil
			}
			return aerr
		}
	}
}

// makeNext copies a tree and edits the copy as a release would be: files changed in the middle, one added, one removed, one
// renamed. It says what it did.
func makeNext(ctx context.Context, from, to string) (string, error) {
	files, err := copyTree(ctx, from, to)
	if err != nil {
		return "", err
	}
	if len(files) < 3 {
		return "a copy with one file added", addFile(to)
	}
	rnd := rand.New(rand.NewPCG(7, 11)) // the same edits every time
	rnd.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	gone, moved, edited := files[0], files[1], files[2:min(len(files), 2+max(1, min(60, len(files)/100)))]
	for i, f := range edited {
		if err := edit(filepath.Join(to, f), i%2 == 0); err != nil {
			return "", err
		}
	}
	if err := within(to, gone, os.Remove); err != nil {
		return "", err
	}
	rename := func(path string) error { return os.Rename(path, path+"-renamed") }
	if err := within(to, moved, rename); err != nil {
		return "", err
	}
	if err := addFile(to); err != nil {
		return "", err
	}
	return fmt.Sprintf("a copy with %s edited in the middle, one added, one (%s) removed, one (%s) renamed",
		count(len(edited), "file", "files"), gone, moved), nil
}

// addFile adds half a megabyte that nobody has.
func addFile(dir string) error {
	var text bytes.Buffer
	for i := range 10_000 {
		fmt.Fprintf(&text, "line %d of a file that is new in this release\n", i)
	}
	return within(dir, "new-in-this-release.txt", func(path string) error { return os.WriteFile(path, text.Bytes(), 0o644) })
}

// within does something to an entry of a directory that may be read-only.
func within(top, rel string, do func(path string) error) error {
	path := filepath.Join(top, rel)
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, info.Mode()|0o700); err != nil {
		return err
	}
	return errors.Join(do(path), os.Chmod(dir, info.Mode()))
}

// edit changes a file in the middle: some bytes written over, or some put in, so that what follows moves.
func edit(path string, insert bool) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	mark := []byte("\nedited for the next release by satchel demo\n")
	mid := len(text) / 2
	if insert {
		text = slices.Concat(text[:mid], mark, text[mid:])
	} else {
		copy(text[mid:], mark)
	}
	return within(filepath.Dir(path), filepath.Base(path), func(path string) error {
		if err := os.Remove(path); err != nil { // it may be read-only
			return err
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
		return os.Chmod(path, info.Mode())
	})
}

// copyTree copies directories, files and links with their modes, and returns the files.
func copyTree(ctx context.Context, from, to string) (files []string, err error) {
	var dirs []func() error // modes of directories come last: they may forbid writing
	err = filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(path, from), "/")
		dst := filepath.Join(to, rel)
		switch e.Type() {
		case fs.ModeDir:
			dirs = append(dirs, func() error { return os.Chmod(dst, info.Mode()) })
			return os.Mkdir(dst, 0o700)
		case fs.ModeSymlink:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, dst)
		}
		files = append(files, rel)
		return copyFile(path, dst, info.Mode())
	})
	for _, f := range slices.Backward(dirs) {
		err = errors.Join(err, f())
	}
	return files, err
}

func copyFile(from, to string, mode fs.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) != nil { // where the file system shares content
		_, err = io.Copy(dst, src)
	}
	return errors.Join(err, dst.Close(), os.Chmod(to, mode))
}

// removeTree removes a tree also when it has read-only directories.
func removeTree(dir string) error {
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			if info, err := e.Info(); err == nil && info.Mode()&0o700 != 0o700 {
				os.Chmod(path, 0o700)
			}
		}
		return nil
	})
	return os.RemoveAll(dir)
}

func freeSpace(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}
