package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"satchel/store/manifest"
)

// PublishOptions says how a tree is published.
type PublishOptions struct {
	Header   manifest.Header
	Policy   *manifest.Policy      // what the trust root allows the product; nil: whatever can be in a manifest
	Workers  int                   // how many files are read at once; zero means two for each processor
	Progress func(PublishProgress) // called now and then by one goroutine, and once at the end; may be nil

	surveyed func() // for tests: called when the tree has been looked at, and not read yet
}

// PublishProgress says how far a publish has come.
type PublishProgress struct {
	Files, Dirs, Links int    // that are done
	Bytes              uint64 // that were read
	Walked             bool   // the whole tree has been seen, so that the totals are final
	TotalFiles         int    // that were seen
	TotalBytes         uint64 // in files that were seen
}

// PublishResult says what a publish has done. Blobs are counted once, however often the tree holds them.
type PublishResult struct {
	Manifest           cid.Cid
	ManifestSize       uint64 // bytes
	TotalSize          uint64 // sum of the sizes of all files, in bytes
	Files, Dirs, Links int
	NewBlobs, OldBlobs int    // stored by this publish; here already
	NewBytes, OldBytes uint64 // their sizes
	NewChunkBytes      uint64 // bytes of distinct chunks that no blob in the store had: what a holder of the rest must fetch
	Closed             int    // files and directories that everybody may write to here, and not in the release
}

// Problem is an entry of a tree that cannot be in a release.
type Problem struct {
	Path string // empty for the top of the tree
	Err  error
}

// TreeError says why a tree cannot be published. It names the first entries that are at fault; the rest is counted.
type TreeError struct {
	Tree     string
	Problems []Problem             // at most ten, in the order of their paths
	Total    int                   // how many entries are at fault in all
	May      []manifest.Permission // what the trust root does not allow the product, and some entries need; sorted
}

const maxProblems = 10

// Error names each problem, and what would allow it, in one line.
func (e *TreeError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "publishing %s: ", e.Tree)
	if e.Total > 1 {
		fmt.Fprintf(&b, "%d entries cannot be published: ", e.Total)
	}
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%q: %v", p.Path, p.Err)
	}
	if more := e.Total - len(e.Problems); more > 0 {
		fmt.Fprintf(&b, "; and %d more", more)
	}
	for i, may := range e.May {
		if i == 0 {
			b.WriteString(`; the trust root can allow it, with "satchel root set ROOT --product PATTERN --may `)
		} else {
			b.WriteByte(',')
		}
		b.WriteString(string(may))
	}
	if len(e.May) > 0 {
		b.WriteByte('"')
	}
	return b.String()
}

// Unwrap gives the problems' errors.
func (e *TreeError) Unwrap() []error {
	errs := make([]error, len(e.Problems))
	for i, p := range e.Problems {
		errs[i] = p.Err
	}
	return errs
}

// publisher is one run of Publish.
type publisher struct {
	*ingester
	options   PublishOptions
	storeInfo fs.FileInfo

	files, dirs, links, seenFiles atomic.Int64
	bytes, seenBytes              atomic.Uint64
	walked                        atomic.Bool
	closed                        int // by collect

	mu       sync.Mutex
	problems []Problem             // guarded by mu; the first maxProblems by path
	total    int                   // guarded by mu
	may      []manifest.Permission // guarded by mu; that some of them need
}

// Publish stores every file of a tree and the manifest that lists them, and gives the manifest's CID. When it returns, all
// is durable. Each file is read once; memory does not grow with the tree.
//
// A tree with entries that cannot be in a release (pipes, sockets, devices, names that are not UTF-8, files that cannot be read or
// change while they are read) is refused with a [*TreeError] that names them. Other errors are the disk's, among them
// [ErrNoSpace]. Blobs that were stored before an error are left for [Store.Prune].
//
// With a Policy the whole tree is looked at before a file is read, and refused with a TreeError when the policy does not allow
// it; that takes about 200 bytes of memory for each entry. Only that everybody may write to an entry, as on a USB stick, is no reason:
// the release has it without that bit, and the result counts them. The manifest that is made always passes its Check.
func (s *Store) Publish(ctx context.Context, tree string, options PublishOptions) (*PublishResult, error) {
	r, err := s.publish(ctx, tree, options)
	var te *TreeError
	switch {
	case err == nil:
		return r, nil
	case errors.As(err, &te):
		return nil, err
	}
	return nil, fmt.Errorf("publishing %s: %w", tree, noSpace(err))
}

func (s *Store) publish(ctx context.Context, tree string, options PublishOptions) (*PublishResult, error) {
	if err := manifest.CheckHeader(&options.Header); err != nil {
		return nil, err
	}
	lock, err := lockFile(s.root, "lock", unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	known, err := s.chunks(ctx)
	if err != nil {
		return nil, err
	}
	p := &publisher{ingester: newIngester(s, known), options: options}
	if p.storeInfo, err = s.dirFile.Stat(); err != nil {
		return nil, err
	}
	defer p.report()()
	lost := s.lostCount()
	r, err := p.run(ctx, tree)
	if err == nil {
		err = s.markManifest(r.Manifest)
	}
	if err == nil {
		err = s.Sync()
	}
	if err == nil && s.lostCount() != lost {
		err = errors.New("writing the store out did not succeed; publish again")
	}
	if err == nil && options.Policy != nil {
		err = p.checkAgain(tree, r.Manifest)
	}
	return r, err
}

func (s *Store) lostCount() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost.count
}

// report calls Progress ten times a second until the returned function is called, and then once more.
func (p *publisher) report() (stop func()) {
	if p.options.Progress == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				p.options.Progress(p.progress())
			case <-quit:
				p.options.Progress(p.progress())
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

func (p *publisher) progress() PublishProgress {
	return PublishProgress{
		Files: int(p.files.Load()), Dirs: int(p.dirs.Load()), Links: int(p.links.Load()), Bytes: p.bytes.Load(),
		Walked: p.walked.Load(), TotalFiles: int(p.seenFiles.Load()), TotalBytes: p.seenBytes.Load(),
	}
}

// survey walks through the tree without reading a file, to find early what the policy does not allow.
func (p *publisher) survey(ctx context.Context, tree string) error {
	top, err := openTree(tree)
	if err != nil {
		return err
	}
	m := &manifest.Manifest{Header: p.options.Header}
	w := &walker{publisher: p, survey: m}
	err = w.dir(ctx, top)
	p.drop(top)
	if err == nil {
		err = p.judge(tree, m)
	}
	if p.options.surveyed != nil {
		p.options.surveyed()
	}
	return err
}

// judge is a [*TreeError] when the walk met problems or the policy does not allow what is in the manifest.
func (p *publisher) judge(tree string, m *manifest.Manifest) error {
	var e *manifest.PolicyError
	if errors.As(m.Check(*p.options.Policy), &e) {
		for _, v := range e.Violations {
			p.problem(v.Path, errors.New(v.What))
		}
		p.mu.Lock()
		p.total += e.Entries - len(e.Violations)
		p.may = e.May
		p.mu.Unlock()
	}
	return p.treeError(tree)
}

// checkAgain finds what came into the tree after the survey.
func (p *publisher) checkAgain(tree string, c cid.Cid) error {
	m, err := p.store.Manifest(c)
	if err != nil {
		return err
	}
	return p.judge(tree, m)
}

// run reads the tree: one goroutine walks, several read files, and this one writes the manifest in the order of the walk.
func (p *publisher) run(ctx context.Context, tree string) (*PublishResult, error) {
	if p.options.Policy != nil {
		if err := p.survey(ctx, tree); err != nil {
			return nil, err
		}
	}
	top, err := openTree(tree)
	if err != nil {
		return nil, err
	}
	entries, name, err := p.store.temp("entries")
	if err != nil {
		p.drop(top)
		return nil, err
	}
	defer p.store.tmp.Remove(name)
	defer entries.Close()

	group, ctx := errgroup.WithContext(ctx)
	ordered, files := make(chan *job, 1024), make(chan *job, 1024)
	w := &walker{publisher: p, ordered: ordered, files: files}
	group.Go(func() error {
		defer p.drop(top)
		defer close(ordered)
		defer close(files)
		defer p.walked.Store(true)
		return w.dir(ctx, top)
	})
	for range p.workers() {
		group.Go(func() error { return p.readFiles(ctx, files) })
	}
	buffered := bufio.NewWriterSize(entries, 64<<10)
	lines := manifest.NewWriter(buffered)
	group.Go(func() error { return p.collect(ctx, ordered, lines) })
	err = group.Wait()
	for j := range files {
		p.drop(j.dir) // left over after an error
	}
	if err == nil {
		err = p.treeError(tree)
	}
	if err == nil {
		err = p.store.tmp.change("writing", name, buffered.Flush)
	}
	if err != nil {
		return nil, err
	}
	return p.finish(lines, entries)
}

func (p *publisher) workers() int {
	if p.options.Workers > 0 {
		return p.options.Workers
	}
	return 2 * runtime.GOMAXPROCS(0)
}

// collect writes the entries into the manifest as they become complete.
func (p *publisher) collect(ctx context.Context, ordered <-chan *job, lines *manifest.Writer) error {
	for j := range ordered {
		if j.done != nil {
			select {
			case <-j.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if j.skip || p.hopeless() {
			continue
		}
		if err := lines.Add(j.entry); err != nil {
			return err
		}
		switch j.entry.Type {
		case manifest.Dir:
			p.dirs.Add(1)
		case manifest.File:
			p.files.Add(1)
		case manifest.Symlink:
			p.links.Add(1)
		}
		if j.closed {
			p.closed++
		}
	}
	return nil
}

// finish stores the manifest: its head is known only now.
func (p *publisher) finish(lines *manifest.Writer, entries *os.File) (*PublishResult, error) {
	head, err := lines.Head(p.options.Header)
	if err != nil {
		return nil, err
	}
	r := &PublishResult{TotalSize: lines.TotalSize(), Files: int(p.files.Load()), Dirs: int(p.dirs.Load()), Links: int(p.links.Load()), Closed: p.closed}
	c := p.counts
	r.NewBlobs, r.OldBlobs = c.newBlobs, c.oldBlobs
	r.NewBytes, r.OldBytes, r.NewChunkBytes = c.newBytes, c.oldBytes, c.newChunkBytes

	doc, name, err := p.store.temp("manifest")
	if err != nil {
		return nil, err
	}
	defer p.store.tmp.Remove(name)
	defer doc.Close()
	if err := p.store.tmp.write(doc, name, head); err != nil {
		return nil, err
	}
	if _, err := entries.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	err = p.store.tmp.change("copying", name, func() error { _, err := io.Copy(doc, entries); return err })
	if err != nil {
		return nil, err
	}
	if _, err := doc.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	fi, err := doc.Stat()
	if err != nil {
		return nil, err
	}
	r.ManifestSize = uint64(fi.Size())
	r.Manifest, err = p.ingest(doc, fi, 0o600, make([]byte, smallFile+1))
	return r, err
}

// readFiles is one of the goroutines that read files.
func (p *publisher) readFiles(ctx context.Context, files <-chan *job) error {
	buf := make([]byte, smallFile+1)
	for j := range files {
		err := ctx.Err()
		if err == nil {
			p.seenFiles.Add(1)
			p.seenBytes.Add(uint64(j.info.Size()))
			err = p.readFile(j, buf)
		}
		p.drop(j.dir)
		if err != nil {
			return err // and the entry stays incomplete
		}
		close(j.done)
	}
	return nil
}

// readFile tries three times to read a file while nobody writes to it. It returns only errors of our own disk.
func (p *publisher) readFile(j *job, buf []byte) error {
	var err error
	for range 3 {
		if err = p.readOnce(j, buf); !errors.Is(err, errChanged) {
			break
		}
		var gone error
		if j.info, gone = j.dir.root.Lstat(j.name); gone != nil || !j.info.Mode().IsRegular() {
			break
		}
	}
	var fault *sourceError
	switch {
	case errors.Is(err, errChanged):
		err = errChanged
	case errors.As(err, &fault):
		err = fault.err
	default:
		return err
	}
	j.skip = true
	p.problem(j.entry.Path, err)
	return nil
}

// sourceError is an error of the tree, not of the store.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }

func (p *publisher) readOnce(j *job, buf []byte) error {
	f, fi, err := j.dir.open(j.name, j.info)
	if isGone(err) {
		return errChanged
	}
	if err != nil {
		return &sourceError{err}
	}
	defer f.Close()
	switch {
	case fi.Size() > MaxBlob:
		return &sourceError{fmt.Errorf("a file of %d bytes, limit is %d", fi.Size(), uint64(MaxBlob))}
	case p.hopeless():
		return nil // it was only to be seen whether it can be opened
	}
	e := &j.entry
	e.Size = uint64(fi.Size())
	e.Mode, j.closed = p.mode(fi)
	e.Blob, err = p.ingest(f, fi, e.Mode, buf)
	return err
}

// mode is the mode that an entry gets. What everybody may write to is closed unless the policy allows that.
func (p *publisher) mode(fi fs.FileInfo) (mode uint32, closed bool) {
	mode = permissions(fi)
	closed = p.options.Policy != nil && !p.options.Policy.Setuid && mode&0o002 != 0
	if closed {
		mode &^= 0o002
	}
	return mode, closed
}

// ingest reads an open file to its end and stores its content.
func (p *publisher) ingest(f *os.File, fi fs.FileInfo, mode uint32, buf []byte) (cid.Cid, error) {
	stable := func() error {
		now, err := f.Stat()
		if err != nil {
			return &sourceError{err}
		}
		if stampOf(now) != stampOf(fi) {
			return errChanged
		}
		return nil
	}
	read := func(n int) { p.bytes.Add(uint64(n)) }
	if fi.Size() > smallFile {
		return p.largeFile(f, mode, fi.Size(), stable, read)
	}
	n, err := io.ReadFull(f, buf)
	if err != io.EOF && err != io.ErrUnexpectedEOF && err != nil {
		return cid.Undef, &sourceError{err}
	}
	read(n)
	if err := stable(); err != nil {
		return cid.Undef, err
	}
	if int64(n) != fi.Size() {
		return cid.Undef, errChanged
	}
	return p.small(buf[:n], mode)
}

// problem notes that an entry cannot be published, keeping those that come first in the tree.
func (p *publisher) problem(path string, err error) {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err // the path is said already, and this one is not the user's
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total++
	byPath := func(a, b Problem) int { return manifest.Compare(a.Path, b.Path) }
	i, _ := slices.BinarySearchFunc(p.problems, Problem{Path: path}, byPath)
	p.problems = slices.Insert(p.problems, i, Problem{path, err})
	p.problems = p.problems[:min(len(p.problems), maxProblems)]
}

// hopeless says whether there will be no release, so that only further problems are of interest.
func (p *publisher) hopeless() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total > 0
}

func (p *publisher) treeError(tree string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.total == 0 {
		return nil
	}
	return &TreeError{Tree: filepath.Clean(tree), Problems: p.problems, Total: p.total, May: p.may}
}
