package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"satchel/store"
	"satchel/store/manifest"
)

// Problem is one difference between a deployment and its manifest.
type Problem struct {
	Path string // in the tree
	What string // for people
}

// Verify compares a deployment with the manifests of its releases, which come from b: every entry's type, mode, size, content and link, and that there is nothing
// else. Content is read from the medium, not from memory, by as many goroutines as there are processors. The
// problems come in the manifest's order; an error means that the comparison could not be made. Below a
// missing directory every entry is a problem; a directory that should not be there is one, whatever is in it.
//
// At and below config paths only missing directories are problems: the rest is the person's. What is mounted on the directory
// state is not looked at. The mode of the tree's own directory is not compared. What an entry's mode forbids this process to read is not read.
// progress, when not nil, is called after each entry, by one goroutine at a time.
//
// The error has [store.ErrNotFound] in its chain when a manifest is not in b, or when it is not known which manifests they are.
func (im *Image) Verify(ctx context.Context, id string, b Blobs, progress func(done, total int)) ([]Problem, error) {
	problems, err := im.verify(ctx, id, b, progress)
	if err != nil {
		return nil, fmt.Errorf("verifying %s: %w", id, err)
	}
	return problems, nil
}

// Prove is Verify without regard for config paths: it gives no problem when the deployment is exactly what its releases say, which is what
// a machine that never had another one has. State is not looked at, here or there.
func (im *Image) Prove(ctx context.Context, id string, b Blobs) ([]Problem, error) {
	l, err := im.layout(id, b)
	if err != nil {
		return nil, fmt.Errorf("proving %s: %w", id, err)
	}
	l.config = nil
	problems, err := im.compare(ctx, id, l, nil)
	if err != nil {
		return nil, fmt.Errorf("proving %s: %w", id, err)
	}
	return problems, nil
}

func (im *Image) verify(ctx context.Context, id string, b Blobs, progress func(done, total int)) ([]Problem, error) {
	l, err := im.layout(id, b)
	if err != nil {
		return nil, err
	}
	return im.compare(ctx, id, l, progress)
}

// layout says what the tree of a deployment must be.
func (im *Image) layout(id string, b Blobs) (*layout, error) {
	if err := im.need(id); err != nil {
		return nil, err
	}
	d, sound := im.load(id)
	if !sound {
		return nil, fmt.Errorf("what it consists of: %w", store.ErrNotFound)
	}
	parts, err := d.parts(b)
	if err != nil {
		return nil, err
	}
	l, err := compose(parts)
	if err == nil {
		l.config = union(l.config, d.config)
	}
	return l, err
}

// parts reads the manifests of a deployment.
func (d *Deployment) parts(b Blobs) ([]Part, error) {
	var parts []Part
	for _, r := range d.Releases {
		m, err := b.Manifest(r.Manifest)
		if err != nil {
			return nil, err
		}
		parts = append(parts, Part{Release: r, Manifest: m})
	}
	return parts, nil
}

func (im *Image) compare(ctx context.Context, id string, l *layout, progress func(done, total int)) ([]Problem, error) {
	return im.glance(ctx, id, l, nil, progress)
}

// Changed finds what was written in place into a deployment, without reading a file: entries that are missing, or have another type,
// mode, size, link or modification time than when they were laid down, and what is in no release. Who gives a file its old time back is
// not found; [Image.Verify] finds that too. Errors are those of Verify.
func (im *Image) Changed(ctx context.Context, id string, b Blobs) ([]Problem, error) {
	l, err := im.layout(id, b)
	var problems []Problem
	if err == nil {
		problems, err = im.glance(ctx, id, l, func(*manifest.Entry) bool { return true }, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for changes in %s: %w", id, err)
	}
	return problems, nil
}

// glance compares a tree with a layout. With trust it reads no file: one that has the fixed time has the content of its entry if trust
// says so of the entry.
func (im *Image) glance(ctx context.Context, name string, l *layout, trust func(e *manifest.Entry) bool, progress func(done, total int)) ([]Problem, error) {
	top, err := im.deploy.sub(name)
	if err != nil {
		return nil, err
	}
	defer top.close()
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(runtime.GOMAXPROCS(0))
	v := &verifier{ctx: ctx, workers: workers, layout: l, trust: trust, total: len(l.entries), progress: progress}
	err = v.dir(top, "", l.entries)
	if werr := workers.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(v.problems, func(a, b Problem) int { return manifest.Compare(a.Path, b.Path) })
	return v.problems, nil
}

type verifier struct {
	ctx      context.Context // of this one verification
	workers  *errgroup.Group
	layout   *layout
	trust    func(e *manifest.Entry) bool // nil: files are read
	buffers  sync.Pool
	total    int
	progress func(done, total int)

	mu       sync.Mutex
	done     int
	problems []Problem
}

// checked counts an entry, with what is wrong with it, if anything.
func (v *verifier) checked(e *manifest.Entry, what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if what != "" {
		v.problems = append(v.problems, Problem{Path: e.Path, What: what})
	}
	v.done++
	if v.progress != nil {
		v.progress(v.done, v.total)
	}
}

// extra notes what is in no release. At and below config paths that is the person's affair.
func (v *verifier) extra(path string) {
	if covers(v.layout.config, path) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.problems = append(v.problems, Problem{Path: path, What: "is not in the release"})
}

// dir compares what is in a directory with the entries below it; prefix is the directory's path and a slash.
func (v *verifier) dir(d *dir, prefix string, entries []*manifest.Entry) error {
	names, err := d.names(-1)
	if err != nil {
		return err
	}
	there := make(map[string]struct{}, len(names))
	for _, name := range names {
		there[name] = struct{}{}
	}
	for len(entries) > 0 {
		e := entries[0]
		name, ok := strings.CutPrefix(e.Path, prefix)
		if !ok || strings.Contains(name, "/") {
			return fmt.Errorf("manifest out of order at %q", e.Path)
		}
		delete(there, name)
		n := 1 + countBelow(entries[1:], e.Path)
		if err := v.entry(d, name, e, entries[1:n]); err != nil {
			return err
		}
		entries = entries[n:]
	}
	for name := range there {
		v.extra(prefix + name)
	}
	return nil
}

// countBelow counts the entries at the front that are below a path.
func countBelow(entries []*manifest.Entry, path string) int {
	for i := range entries {
		p := entries[i].Path
		if len(p) <= len(path) || p[len(path)] != '/' || !strings.HasPrefix(p, path) {
			return i
		}
	}
	return len(entries)
}

// entry compares one entry, and what is below it when it is a directory.
func (v *verifier) entry(d *dir, name string, e *manifest.Entry, below []*manifest.Entry) error {
	if err := v.ctx.Err(); err != nil {
		return err
	}
	st, err := d.lstat(name)
	what := ""
	if own := covers(v.layout.config, e.Path); own && e.Type != manifest.Dir || v.layout.isMount(e) && err == nil {
		v.checked(e, "") // a directory that is missing is a problem there too, nothing else
		return nil
	} else if own && err == nil {
		return v.ownDir(d, name, e, &st, below)
	}
	if err != nil {
		what = unreadable(err)
	} else if kind := st.Mode & unix.S_IFMT; kind != kindOf(e.Type) {
		what = fmt.Sprintf("is %s, not a %v", kindName(kind), e.Type)
	}
	switch {
	case what != "":
		v.missing(e, what, below)
		return nil
	case e.Type == manifest.Symlink:
		v.checked(e, v.link(d, name, e))
		return nil
	}
	if mode := st.Mode & 0o7777; mode != e.Mode {
		what = fmt.Sprintf("has mode %04o, not %04o", mode, e.Mode)
	}
	if e.Type == manifest.Dir {
		return v.below(d, name, e, what, below)
	}
	if st.Size != int64(e.Size) {
		what = fmt.Sprintf("has %d bytes, not %d", st.Size, e.Size)
	}
	if v.trust != nil && what == "" {
		what = v.suspect(e, &st)
	}
	if what != "" || e.Size == 0 || v.trust != nil {
		v.checked(e, what)
		return nil
	}
	v.content(d, name, e)
	return nil
}

// ownDir looks at a directory below a config path.
func (v *verifier) ownDir(d *dir, name string, e *manifest.Entry, st *unix.Stat_t, below []*manifest.Entry) error {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		v.checked(e, "")
		for _, e := range below {
			v.checked(e, "")
		}
		return nil
	}
	return v.below(d, name, e, "", below)
}

// suspect says why a file that looks right is not to be trusted.
func (v *verifier) suspect(e *manifest.Entry, st *unix.Stat_t) string {
	switch {
	case !v.trust(e):
		return "has other content"
	case e.Size > 0 && !isFixed(st.Mtim):
		return "was written to"
	}
	return ""
}

func kindOf(t manifest.Type) uint32 {
	switch t {
	case manifest.Dir:
		return unix.S_IFDIR
	case manifest.Symlink:
		return unix.S_IFLNK
	}
	return unix.S_IFREG
}

func (v *verifier) missing(e *manifest.Entry, what string, below []*manifest.Entry) {
	v.checked(e, what)
	for _, e := range below {
		v.checked(e, "is missing")
	}
}

func unreadable(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "is missing"
	}
	return fmt.Sprintf("cannot be read: %v", err)
}

func (v *verifier) link(d *dir, name string, e *manifest.Entry) string {
	target, err := d.readlink(name)
	switch {
	case err != nil:
		return unreadable(err)
	case target != e.Link:
		return fmt.Sprintf("points at %q, not %q", target, e.Link)
	}
	return ""
}

func (v *verifier) below(d *dir, name string, e *manifest.Entry, what string, below []*manifest.Entry) error {
	sub, err := d.sub(name)
	if forbidden(err, e) {
		for _, e := range below {
			v.checked(e, "")
		}
		v.checked(e, what)
		return nil
	}
	if err != nil {
		v.missing(e, unreadable(err), below)
		return nil
	}
	defer sub.close()
	v.checked(e, what)
	return v.dir(sub, e.Path+"/", below)
}

// forbidden says whether the entry itself keeps its owner from reading it: only root can look inside.
func forbidden(err error, e *manifest.Entry) bool {
	need := uint32(0o400)
	if e.Type == manifest.Dir {
		need = 0o500
	}
	return errors.Is(err, fs.ErrPermission) && e.Mode&need != need
}

// content has a worker read the file. It blocks while all are busy, which bounds how many files are open.
func (v *verifier) content(d *dir, name string, e *manifest.Entry) {
	f, err := d.open(name)
	if forbidden(err, e) {
		v.checked(e, "")
		return
	}
	if err != nil {
		v.checked(e, unreadable(err))
		return
	}
	v.workers.Go(func() error {
		defer f.Close()
		forget(f)
		what, err := v.compare(f, e)
		if err == nil {
			v.checked(e, what)
		}
		return err
	})
}

func (v *verifier) compare(f *os.File, e *manifest.Entry) (what string, err error) {
	buf, ok := v.buffers.Get().(*[]byte)
	if !ok {
		b := make([]byte, contentBuffer)
		buf = &b
	}
	defer v.buffers.Put(buf)
	same, err := hasContent(v.ctx, f, e.Blob, *buf)
	switch {
	case v.ctx.Err() != nil:
		return "", v.ctx.Err()
	case err != nil:
		return unreadable(err), nil
	case !same:
		return "has other content", nil
	}
	return "", nil
}

// contentBuffer is large enough for a chunk and what comes after it.
const contentBuffer = 4 * store.MaxChunk

// hasContent reads to the end of r and says whether that is the content of the blob.
func hasContent(ctx context.Context, r io.Reader, c cid.Cid, buf []byte) (bool, error) {
	if store.IsRaw(c) {
		h := sha256.New()
		_, err := io.CopyBuffer(h, onlyReader{ctx, r}, buf)
		return store.RawCID(store.Digest(h.Sum(nil))) == c, err
	}
	list, err := cutContent(onlyReader{ctx, r}, buf)
	return err == nil && store.ListCID(store.Sum(list.Encode())) == c, err
}

// onlyReader ends with its context, and hides what a file could do without the buffer.
type onlyReader struct {
	ctx context.Context
	r   io.Reader
}

func (o onlyReader) Read(p []byte) (int, error) {
	if err := o.ctx.Err(); err != nil {
		return 0, err
	}
	return o.r.Read(p)
}

// cutContent cuts what it reads into chunks, as a publisher does.
func cutContent(r io.Reader, buf []byte) (*store.ChunkList, error) {
	list := &store.ChunkList{}
	have, eof := 0, false
	for {
		if !eof {
			n, err := io.ReadFull(r, buf[have:])
			have += n
			if eof = err == io.EOF || err == io.ErrUnexpectedEOF; err != nil && !eof {
				return nil, err
			}
		}
		rest := buf[:have]
		for len(rest) >= store.MaxChunk || eof && len(rest) > 0 {
			n := store.Cut(rest)
			list.Chunks = append(list.Chunks, store.Chunk{Offset: list.Size, Size: uint32(n), Digest: store.Sum(rest[:n])})
			list.Size += uint64(n)
			rest = rest[n:]
		}
		if eof {
			return list, nil
		}
		have = copy(buf, rest)
	}
}
