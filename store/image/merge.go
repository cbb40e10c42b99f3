package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"satchel/store/manifest"
)

// What a merge may do with a path of the person's.
const (
	localKept     = "kept"     // the person's, and the release did not change its own
	localConflict = "conflict" // the person's, and the release's new one lies beside it
	localAdded    = "added"    // the person's, of which no release knows
	localRemoved  = "removed"  // nothing, since the person removed it
)

// Endings of what is laid beside a path.
const (
	newSuffix = ".satchel-new" // what the release has, beside the person's
	oldSuffix = ".satchel-old" // what the person had, beside a directory of the release
)

// merger carries the configuration of one tree over into another, path by path:
//
//	base   what the release of the person's tree has
//	mine   what is in the person's tree
//	next   what the releases of the new tree have
//
//	mine is base          next
//	mine is next          next
//	next is base          mine: kept, added or removed
//	neither               mine: conflict, next beside it; kept when next has nothing
//
// Directories of next are always there. The new tree is changed only when all that is needed lies ready beside it, by rename.
type merger struct {
	placer
	ctx        context.Context
	mine       *cursor
	tree       *dir // the new one
	spare      *dir // on the same file system as the tree
	base, next *layout
	known      bool // base is known; otherwise what has the fixed time is taken for the release's
	paths      []string
	ops        []op
	laid       []laid
	beside     map[string]bool // paths that were laid beside others
	local      []Local
	buf        []byte
}

// laid is a file in the spare that comes from a blob.
type laid struct {
	name  string
	entry *manifest.Entry
}

// op is one change of the new tree.
type op struct {
	path string
	do   func(in *dir, name string) error // in is the directory that holds the path
	make bool                             // directories on the way are made
}

// nodes lists the paths at and below the config paths of a tree, and gives a digest of how they look.
func (im *Image) nodes(top *dir, config []string) (paths []string, seen string, err error) {
	h := sha256.New()
	c := &cursor{open: []level{{dir: top}}, keep: true}
	defer c.close()
	var walk func(d *dir, name, path string) error
	walk = func(d *dir, name, path string) error {
		st, err := d.lstat(name)
		if err != nil {
			return ignoreGone(err)
		}
		link := ""
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			if link, err = d.readlink(name); err != nil {
				return ignoreGone(err)
			}
		}
		paths = append(paths, path)
		fmt.Fprintf(h, "%q %o %d %d %d %d %d %q\n", path, st.Mode, st.Uid, st.Gid, fileSize(&st), st.Mtim.Sec, st.Mtim.Nsec, link)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil
		}
		sub, err := d.sub(name)
		if err != nil {
			return ignoreGone(err)
		}
		defer sub.close()
		names, err := sub.names(-1)
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, n := range names {
			if err := walk(sub, n, path+"/"+n); err != nil {
				return err
			}
		}
		return nil
	}
	for _, path := range config {
		d, name, err := c.at(path)
		if err == nil {
			err = walk(d, name, path)
		}
		if err := ignoreGone(err); err != nil {
			return nil, "", err
		}
	}
	return paths, hex.EncodeToString(h.Sum(nil)), nil
}

// fileSize leaves out the sizes of directories, which say nothing.
func fileSize(st *unix.Stat_t) int64 {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0
	}
	return st.Size
}

// ignoreGone makes it no error that something is not there, or not below a directory.
func ignoreGone(err error) error { return ignore(err, unix.ENOENT, unix.ENOTDIR, unix.ELOOP) }

// merge carries the configuration of a deployment, whose layout is base unless that is nil, over into the tree named name, which is durable as it is, and notes in d what it did.
// To do it again does no harm.
func (im *Image) merge(ctx context.Context, from Deployment, base *layout, name string, d *Deployment, next *layout, b Blobs) (err error) {
	m := &merger{placer: placer{im: im, blobs: b, files: one{b}, apart: always}, ctx: ctx, base: base, known: base != nil, next: next,
		beside: map[string]bool{}, buf: make([]byte, contentBuffer)}
	if base == nil {
		m.base = &layout{}
	}
	d.config = union(from.config, m.base.config, next.config)
	if len(d.config) == 0 {
		return nil
	}
	d.From = from.ID
	top, err := im.deploy.sub(from.ID)
	if err != nil {
		return err
	}
	m.mine = &cursor{open: []level{{dir: top}}}
	defer m.mine.close()
	if m.paths, d.seen, err = im.nodes(top, d.config); err != nil {
		return err
	}
	if m.tree, err = im.deploy.sub(name); err != nil {
		return err
	}
	defer m.tree.close()
	err = im.withSpare(name, func(spare *dir) error {
		m.spare = spare
		return m.run(d.config)
	})
	slices.SortFunc(m.local, func(a, b Local) int { return manifest.Compare(a.Path, b.Path) })
	d.Local = m.local
	return err
}

// run decides, makes ready, and changes.
func (m *merger) run(config []string) error {
	there, _, err := m.im.nodes(m.tree, config) // an earlier merge may have put it there
	if err != nil {
		return err
	}
	m.paths = append(m.paths, there...)
	for _, l := range []*layout{m.base, m.next} {
		for _, e := range l.entries {
			if covers(config, e.Path) {
				m.paths = append(m.paths, e.Path)
			}
		}
	}
	slices.SortFunc(m.paths, manifest.Compare)
	for _, path := range slices.Compact(m.paths) {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		if covers(m.next.state, path) || m.beside[path] {
			continue
		}
		if err := m.path(path); err != nil {
			return err
		}
	}
	if len(m.ops) == 0 {
		return nil
	}
	if err := m.spare.syncFS(); err != nil {
		return err
	}
	if err := m.check(); err != nil {
		return err
	}
	for _, o := range m.ops {
		if err := m.apply(o); err != nil {
			return err
		}
	}
	return m.tree.syncFS()
}

// check reads what came from blobs from the medium.
func (m *merger) check() error {
	for _, l := range m.laid {
		f, err := m.spare.open(l.name)
		if forbidden(err, l.entry) {
			continue
		}
		if err != nil {
			return err
		}
		forget(f)
		same, err := hasContent(m.ctx, f, l.entry.Blob, m.buf)
		f.Close()
		if err == nil && !same {
			err = discard(m.blobs, l.entry, "has other content")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// path decides about one path.
func (m *merger) path(path string) error {
	base, next := m.base.find(path), m.next.find(path)
	my, err := m.look(path)
	if err != nil {
		return err
	}
	mine := my.Mode & unix.S_IFMT
	switch {
	case next != nil && next.Type == manifest.Dir:
		return m.directory(path, my, base, next)
	case mine == unix.S_IFDIR && base == nil:
		m.later(path, func(in *dir, name string) error { return m.makeDir(in, name, path) })
		return nil
	case mine == unix.S_IFDIR: // what is in it decides
		if next != nil && m.hasDir(path) { // an earlier merge needed it
			m.beside[path+newSuffix] = true
			m.note(path, localConflict)
		}
		return nil
	case mine == 0 && base != nil && base.Type == manifest.Dir && next == nil:
		m.remove(path)
		return nil
	case mine != 0 && mine != unix.S_IFREG && mine != unix.S_IFLNK: // a pipe, socket or device does not belong here
		mine = 0
		my.Mode = 0
	}
	if base != nil && base.Type == manifest.Dir { // a file of the release has taken its place
		base = nil
	}
	isBase, err := m.is(path, my, base)
	if err != nil {
		return err
	}
	if !m.known {
		isBase = mine == 0 || isFixed(my.Mtim)
	}
	isNext := isBase
	if !isBase {
		if isNext, err = m.is(path, my, next); err != nil {
			return err
		}
	}
	switch {
	case isBase || isNext:
		return m.take(path, next)
	case mine == 0 && sameEntry(base, next):
		m.note(path, localRemoved)
		m.remove(path)
		return nil
	case base == nil && next == nil:
		m.note(path, localAdded)
	case next == nil || m.known && sameEntry(base, next):
		m.note(path, localKept)
	default:
		m.note(path, localConflict)
		if err := m.lay(path+newSuffix, next); err != nil {
			return err
		}
		if mine == 0 {
			m.remove(path)
			return nil
		}
	}
	return m.keep(path, path, my)
}

// note records a local change. What an earlier merge laid beside something is not one.
func (m *merger) note(path, what string) {
	if !isBeside(path) {
		m.local = append(m.local, Local{path, what})
	}
}

// isBeside knows what a merge laid beside something.
func isBeside(path string) bool {
	return strings.HasSuffix(path, newSuffix) || strings.HasSuffix(path, oldSuffix)
}

// hasDir says whether the new tree has a directory at a path.
func (m *merger) hasDir(path string) bool {
	in := &cursor{open: []level{{dir: m.tree}}, keep: true}
	defer in.close()
	d, name, err := in.at(path)
	if err != nil {
		return false
	}
	kind, err := d.kind(name)
	return err == nil && kind == unix.S_IFDIR
}

// look says what the person has; nothing has mode 0.
func (m *merger) look(path string) (st unix.Stat_t, err error) {
	d, name, err := m.mine.at(path)
	if err == nil {
		st, err = d.lstat(name)
	}
	if err != nil {
		return unix.Stat_t{}, ignoreGone(err)
	}
	return st, nil
}

// is says whether the person's is what the entry says.
func (m *merger) is(path string, my unix.Stat_t, e *manifest.Entry) (bool, error) {
	d, name, err := m.mine.at(path)
	if err != nil {
		return e == nil, ignoreGone(err)
	}
	return sameAs(m.ctx, d, name, &my, e, m.buf)
}

// sameAs says whether what a name stands for is what the entry says; without an entry, whether there is nothing.
func sameAs(ctx context.Context, d *dir, name string, st *unix.Stat_t, e *manifest.Entry, buf []byte) (bool, error) {
	if e == nil || st.Mode == 0 {
		return e == nil && st.Mode == 0, nil
	}
	if st.Mode&unix.S_IFMT != kindOf(e.Type) {
		return false, nil
	}
	if e.Type == manifest.Symlink {
		target, err := d.readlink(name)
		return target == e.Link, err
	}
	if st.Mode&0o7777 != e.Mode || st.Size != int64(e.Size) || e.Size == 0 {
		return st.Mode&0o7777 == e.Mode && st.Size == int64(e.Size), nil
	}
	f, err := d.open(name)
	if forbidden(err, e) {
		return isFixed(st.Mtim), nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return hasContent(ctx, f, e.Blob, buf)
}

func sameEntry(a, b *manifest.Entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Type == b.Type && a.Mode == b.Mode && a.Blob == b.Blob && a.Link == b.Link
}

// directory decides about a directory of next. A mode that the person gave it is kept.
func (m *merger) directory(path string, my unix.Stat_t, base, next *manifest.Entry) error {
	switch my.Mode & unix.S_IFMT {
	case 0:
		return nil
	case unix.S_IFDIR:
		mode := my.Mode & 0o7777
		if base != nil && base.Type == manifest.Dir && base.Mode == next.Mode && mode != next.Mode {
			m.later(path, func(in *dir, name string) error {
				d, err := in.subAnyway(name)
				if err != nil {
					return err
				}
				defer d.close()
				return d.chmod(mode)
			})
		}
		return nil
	}
	if isBase, err := m.is(path, my, base); err != nil || isBase {
		return err
	}
	m.note(path, localConflict)
	return m.keep(path, path+oldSuffix, my)
}

// take lets the new tree have what the release has.
func (m *merger) take(path string, next *manifest.Entry) error {
	if next == nil {
		m.remove(path)
		return nil
	}
	return m.lay(path, next)
}

// lay puts an entry of the release at a path, unless it is there.
func (m *merger) lay(path string, e *manifest.Entry) error {
	if m.beside[path] = path != e.Path; len(path) > manifest.MaxPath {
		return nil
	}
	in := &cursor{open: []level{{dir: m.tree}}, keep: true}
	defer in.close()
	if d, name, err := in.at(path); err == nil {
		if st, err := d.lstat(name); err == nil {
			if same, err := sameAs(m.ctx, d, name, &st, e, m.buf); same || err != nil {
				return err
			}
		}
	}
	name := strconv.Itoa(len(m.ops))
	var err error
	if e.Type == manifest.Symlink {
		err = m.spare.symlink(e.Link, name)
	} else {
		err = m.place(m.ctx, m.spare, name, e)
		m.laid = append(m.laid, laid{name, e})
	}
	m.put(path, name)
	return err
}

// keep puts a copy of what the person has at from to a path of the new tree, unless it is there.
func (m *merger) keep(from, path string, my unix.Stat_t) error {
	if path != from {
		m.beside[path] = true
	}
	d, name, err := m.mine.at(from)
	if err != nil {
		return ignoreGone(err)
	}
	in := &cursor{open: []level{{dir: m.tree}}, keep: true}
	defer in.close()
	if d, name, err := in.at(path); err == nil && my.Mode&unix.S_IFMT == unix.S_IFREG {
		st, err := d.lstat(name)
		if err == nil && st.Mode == my.Mode && st.Size == my.Size && st.Mtim == my.Mtim && !isFixed(my.Mtim) {
			return nil // an earlier merge has put it there
		}
	}
	spare := strconv.Itoa(len(m.ops))
	c := &copier{ctx: m.ctx, im: m.im}
	if err := c.any(d, name, m.spare, spare, from); err != nil {
		if errors.Is(err, fs.ErrNotExist) { // gone meanwhile
			return nil
		}
		return err
	}
	m.put(path, spare)
	return nil
}

func (m *merger) later(path string, do func(in *dir, name string) error) {
	m.ops = append(m.ops, op{path: path, do: do, make: true})
}

// put moves what lies ready to a path.
func (m *merger) put(path, spare string) {
	m.later(path, func(in *dir, name string) error {
		if kind, err := in.kind(name); err != nil {
			return err
		} else if kind == unix.S_IFDIR {
			if err := in.removeAll(name); err != nil {
				return err
			}
		}
		return m.spare.rename(spare, in, name)
	})
}

// remove takes a path away, if it is there.
func (m *merger) remove(path string) {
	in := &cursor{open: []level{{dir: m.tree}}, keep: true}
	defer in.close()
	d, name, err := in.at(path)
	if err != nil {
		return
	}
	if kind, err := d.kind(name); err == nil && kind == 0 {
		return
	}
	m.ops = append(m.ops, op{path: path, do: func(in *dir, name string) error { return in.removeAll(name) }})
}

// apply makes one change. The directory that it is in may forbid to write, and what is on the way may be no directory: the release has
// made a file of what the person still needs, which is laid beside then.
func (m *merger) apply(o op) error {
	in, err := m.tree.again()
	if err != nil {
		return err
	}
	defer func() { in.close() }()
	parent, name := splitPath(o.path)
	for at := 0; at < len(parent); {
		n := nextSlash(parent, at)
		next, err := in.sub(parent[at:n])
		if isOneOf(err, unix.ENOENT, unix.ENOTDIR, unix.ELOOP) {
			if !o.make {
				return nil
			}
			if err := in.writable(func() error { return m.makeDir(in, parent[at:n], parent[:n]) }); err != nil {
				return err
			}
			next, err = in.sub(parent[at:n])
		}
		if err != nil {
			return err
		}
		in.close()
		in, at = next, n+1
	}
	return in.writable(func() error { return o.do(in, name) })
}

// nextSlash is where the component of a path that begins at a position ends.
func nextSlash(path string, at int) int {
	for i := at; i < len(path); i++ {
		if path[i] == '/' {
			return i
		}
	}
	return len(path)
}

// makeDir makes a directory as the person has it.
func (m *merger) makeDir(in *dir, name, path string) error {
	kind, err := in.kind(name)
	if err != nil || kind == unix.S_IFDIR {
		return err
	}
	if kind != 0 {
		m.note(path, localConflict)
		if err := in.rename(name, in, name+newSuffix); err != nil {
			return err
		}
	}
	made, err := in.mkdir(name)
	if err != nil {
		return err
	}
	defer made.close()
	st, err := m.look(path)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errors.Join(err, made.chmod(0o755))
	}
	if err := ignore(unix.Fchown(made.fd(), int(st.Uid), int(st.Gid)), unix.EPERM); err != nil {
		return err
	}
	return made.chmod(st.Mode & 0o7777)
}
