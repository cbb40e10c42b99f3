package p2p

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"satchel/store/image"
	"satchel/store/manifest"
)

// A disk is never filled to its end: switching trees and going back need a little room, and so does everything else on the machine.
const (
	keepFree     = 64 << 20 // bytes
	keepFreePart = 20       // or this part of a small disk: 5 %
	margin       = 10       // a tenth more than what is counted: file systems need room for their own
)

// room is what a disk has.
type room struct {
	free, size uint64 // bytes
	inodes     uint64 // free ones
	counted    bool   // the file system counts inodes
}

// spare is what may be written.
func (r room) spare() uint64 {
	keep := min(uint64(keepFree), r.size/keepFreePart)
	return r.free - min(r.free, keep)
}

// need is what an operation takes of a disk.
type need struct{ bytes, files uint64 }

// check compares, and says both numbers when it is too little.
func (r room) check(what, dir string, n need) error {
	n.bytes += n.bytes / margin
	if n.bytes > r.spare() {
		return fail(CodeNoSpace, `make room on the disk of `+dir+`, for example with "satchel prune"; it goes on by itself`,
			fmt.Errorf("%s needs %s on the disk of %s, and %s are free, of which %s stay free", what, Size(n.bytes), dir, Size(r.free), Size(r.free-r.spare())))
	}
	if r.counted && n.files > r.inodes {
		return fail(CodeNoSpace, `remove files there, or use a file system with more inodes; "satchel prune" may help`,
			fmt.Errorf("%s needs %d files on the disk of %s, and it can hold %d more", what, n.files, dir, r.inodes))
	}
	return nil
}

// roomFor looks, when the manifest of a fetch has come, whether there is room for what the store lacks, and for the tree where
// the product is followed. It is called beside the node's goroutine.
func (n *Node) roomFor(l *line) func(m *manifest.Manifest) error {
	dir := ""
	if l.place != nil {
		dir = l.place.dir
	}
	return func(m *manifest.Manifest) error {
		lacks := n.lacks(m)
		here, err := diskRoom(filepath.Join(n.cfg.Home, "store"))
		if err != nil {
			return err
		}
		if err := here.check(fmt.Sprintf("%s %s", m.Product, m.Version), n.cfg.Home, lacks); err != nil || dir == "" || sameDisk(n.cfg.Home, dir) {
			return err
		}
		there, err := diskRoom(dir)
		if err != nil {
			return err
		}
		return there.check(fmt.Sprintf("the tree of %s %s", m.Product, m.Version), dir, need{bytes: m.TotalSize(), files: uint64(len(m.Entries))})
	}
}

// lacks counts what is not in the store, without what is there in part.
func (n *Node) lacks(m *manifest.Manifest) (out need) {
	partial := n.store.PartialBytes()
	for _, b := range m.Blobs() {
		if !n.store.Has(b.CID) {
			out.bytes += b.Size
			out.files++
		}
	}
	out.bytes -= min(out.bytes, partial)
	return out
}

func diskRoom(dir string) (r room, err error) {
	var st unix.Statfs_t
	for { // the directory itself may not be there yet
		if err = unix.Statfs(dir, &st); !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	if err != nil {
		return r, fmt.Errorf("measuring the disk of %s: %w", dir, err)
	}
	block := uint64(st.Bsize)
	return room{free: st.Bavail * block, size: st.Blocks * block, inodes: st.Ffree, counted: st.Files > 0}, nil
}

// sameDisk reports whether two directories are on one file system.
func sameDisk(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a, &sa) == nil && unix.Stat(b, &sb) == nil && sa.Dev == sb.Dev
}

// roomToStage looks whether there is room for a deployment.
func (n *Node) roomToStage(dir string, img *image.Image, parts []image.Part) error {
	_, stage := img.Need(parts, n.store)
	r, err := diskRoom(dir)
	if err != nil {
		return err
	}
	return r.check("laying down the tree", dir, need{stage.Bytes, stage.Inodes})
}
