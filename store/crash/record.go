package crash

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Record makes a file system, runs work on it, and gives the log of what was written until work returned. Work gets the directory at
// which it is mounted, and a function that puts a mark into the log. It must leave no file open there, and should do what it does in
// another process. Dir is an empty directory for the mounts.
func Record(f FileSystem, dir string, work func(mounted string, mark func(n int)) error) (*Log, error) {
	d := &recorder{size: f.Size, content: make(blocks)}
	l, err := d.record(f, dir, work)
	if err != nil {
		return nil, fmt.Errorf("recording on %s: %w", f.Name, err)
	}
	return l, nil
}

func (d *recorder) record(f FileSystem, dir string, work func(string, func(int)) error) (l *Log, err error) {
	served, mounted := filepath.Join(dir, "disk"), filepath.Join(dir, "work")
	for _, sub := range []string{served, mounted} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, err
		}
	}
	server, err := fs.Mount(served, &top{disk: d}, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "crash", MaxWrite: 1 << 20}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Unmount()) }()
	file, err := os.OpenFile(filepath.Join(served, diskName), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	device, err := attach(file)
	if err != nil {
		return nil, err
	}
	defer device.Close()
	if err := f.mkfs(device.path); err != nil {
		return nil, err
	}
	l = &Log{FS: f, base: d.begin()}
	if err := f.mount(device.path, mounted); err != nil {
		return nil, err
	}
	err = work(mounted, d.mark)
	l.events = d.end()
	return l, errors.Join(err, unmount(mounted))
}

// recorder is a disk that remembers what is written to it. It is the only file of a FUSE file system.
type recorder struct {
	fs.Inode
	size int64

	mu      sync.Mutex
	content blocks  // guarded by mu
	on      bool    // guarded by mu; events are kept
	events  []event // guarded by mu
}

const diskName = "disk"

type top struct {
	fs.Inode
	disk *recorder
}

// OnAdd puts the disk into the directory that is mounted.
func (t *top) OnAdd(ctx context.Context) {
	t.AddChild(diskName, t.NewPersistentInode(ctx, t.disk, fs.StableAttr{Mode: syscall.S_IFREG}), false)
}

var (
	_ fs.NodeOnAdder   = (*top)(nil)
	_ fs.NodeGetattrer = (*recorder)(nil)
	_ fs.NodeOpener    = (*recorder)(nil)
	_ fs.NodeReader    = (*recorder)(nil)
	_ fs.NodeWriter    = (*recorder)(nil)
	_ fs.NodeFsyncer   = (*recorder)(nil)
)

func (d *recorder) begin() blocks {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.on = true
	return maps.Clone(d.content)
}

func (d *recorder) end() []event {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.on = false
	return d.events
}

func (d *recorder) mark(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(event{mark: n + 1})
}

// add keeps an event. The caller holds mu. Of several flushes with nothing written between them one is enough.
func (d *recorder) add(e event) {
	again := e.isFlush() && len(d.events) > 0 && d.events[len(d.events)-1].isFlush()
	if d.on && !again {
		d.events = append(d.events, e)
	}
}

// Getattr says how large the disk is.
func (d *recorder) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = syscall.S_IFREG|0o600, uint64(d.size)
	return 0
}

// Open has the kernel keep nothing of the disk in memory.
func (d *recorder) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Read reads what was written, flushed or not.
func (d *recorder) Read(_ context.Context, _ fs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	p = p[:max(0, min(int64(len(p)), d.size-off))]
	d.mu.Lock()
	defer d.mu.Unlock()
	d.content.read(off, p)
	return fuse.ReadResultData(p), 0
}

// Write notes a write. From here on a flush makes it durable, also one that was asked for before the answer got there.
func (d *recorder) Write(_ context.Context, _ fs.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	if off+int64(len(p)) > d.size {
		return 0, syscall.ENOSPC
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.content.write(off, p)
	d.add(event{off: off, data: append([]byte{}, p...)})
	return uint32(len(p)), 0
}

// Fsync notes a flush.
func (d *recorder) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(event{})
	return 0
}
