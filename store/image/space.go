package image

import (
	"math"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"satchel/store/manifest"
)

// Space is room on a disk.
type Space struct {
	Bytes  uint64
	Inodes uint64 // files and directories that can be made
}

// Free is what may still be written to the image's file system.
func (im *Image) Free() (Space, error) {
	var st unix.Statfs_t
	if err := im.deploy.do("measuring free space of", "", func() error { return unix.Fstatfs(im.deploy.fd(), &st) }); err != nil {
		return Space{}, err
	}
	s := Space{Bytes: st.Bavail * uint64(st.Bsize), Inodes: st.Ffree}
	if st.Files == 0 { // btrfs and others make them as they need them
		s.Inodes = math.MaxUint64
	}
	return s, nil
}

const (
	block    = 4096 // bytes to which a file is rounded in a store, whose file system is not looked at
	dirEntry = 16   // bytes of a name in a directory, beside the name
	fastLink = 59   // bytes of a link's target that need no block

	recordBytes = 64 << 10 // for the boot record and the description
	recordFiles = 8
)

// Need says what the blobs of some releases that are not in b will take there, and what the tree takes in the image. It cannot know what
// state of the person's will be copied when a path becomes state, nor what the person has in configuration beyond what the releases have.
func (im *Image) Need(parts []Part, b Blobs) (fetch, stage Space) {
	stage = Space{Bytes: recordBytes, Inodes: recordFiles}
	links, shares, size := im.waysToShare(parts, b)
	seen := make(map[cid.Cid]bool)
	for i := range parts {
		m := parts[i].Manifest
		for j := range m.Entries {
			e := &m.Entries[j]
			stage.Bytes += uint64(len(e.Path)) + dirEntry
			if e.Type != manifest.File {
				stage.Inodes++
				if e.Type == manifest.Dir || len(e.Link) > fastLink {
					stage.Bytes += size
				}
				continue
			}
			if !seen[e.Blob] {
				seen[e.Blob] = true
				fetch.add(e, block, !b.Has(e.Blob))
			}
			own := covers(m.Terms.Config, e.Path) || covers(m.Terms.State, e.Path)
			switch {
			case e.Size == 0, shares:
				stage.Inodes++
			case own || !links:
				stage.add(e, size, true)
			}
		}
	}
	return fetch, stage
}

// add counts a file, which is rounded to blocks of a size.
func (s *Space) add(e *manifest.Entry, size uint64, really bool) {
	if really {
		s.Bytes += (e.Size + size - 1) / size * size
		s.Inodes++
	}
}

// waysToShare says whether trees are made of links to blobs, and whether they share their blocks instead, and of what size blocks are.
// When no blob is there yet, it is taken that links can be made.
func (im *Image) waysToShare(parts []Part, b Blobs) (links, shares bool, size uint64) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(im.deploy.fd(), &fs); err != nil || fs.Bsize <= 0 {
		return true, false, block
	}
	here, there, ok := im.devices(parts, b)
	links = !ok || here == there
	shares = links && im.sharing.Load() != sharingFails && (fs.Type == unix.BTRFS_SUPER_MAGIC || fs.Type == unix.XFS_SUPER_MAGIC)
	return links, shares, uint64(fs.Bsize)
}

// devices are those of the image and of the blobs.
func (im *Image) devices(parts []Part, b Blobs) (here, there uint64, ok bool) {
	var st unix.Stat_t
	for i := range parts {
		for j := range parts[i].Manifest.Entries {
			e := &parts[i].Manifest.Entries[j]
			if e.Type != manifest.File || e.Size == 0 || !b.Has(e.Blob) {
				continue
			}
			f, _, err := b.OpenBlob(e.Blob)
			if err != nil {
				return 0, 0, false
			}
			defer f.Close()
			if unix.Fstat(int(f.Fd()), &st) != nil {
				return 0, 0, false
			}
			there = uint64(st.Dev)
			if unix.Fstat(im.deploy.fd(), &st) != nil {
				return 0, 0, false
			}
			return uint64(st.Dev), there, true
		}
	}
	return 0, 0, false
}
